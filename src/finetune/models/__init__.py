"""Pretrained models with a new head, implementing the common interface `Backbone`."""
