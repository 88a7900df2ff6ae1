"""What a bundle is worth: its answers on locked images, figures with intervals, pictures, and the serving check."""
