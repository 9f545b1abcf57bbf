"""Images, classifiers and their weights; one image explained."""
