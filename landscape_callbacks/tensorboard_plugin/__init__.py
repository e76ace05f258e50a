"""The Landscape tab of TensorBoard. Nothing here imports torch or Lightning."""
