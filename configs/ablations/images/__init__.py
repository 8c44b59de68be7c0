"""Tables of models of images: PixelCNN++, patches."""
