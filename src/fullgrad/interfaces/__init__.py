"""FullGrad in the call styles of other libraries, none of which is imported.

``captum_style`` as Captum's attributions, ``quantus`` as Quantus' ``explain_func``, ``grad_cam`` as
the classes of the grad-cam package.
"""
