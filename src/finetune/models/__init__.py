"""Pretrained networks with a new head, each as one `Backbone`."""
