"""From terms to saliency maps."""
