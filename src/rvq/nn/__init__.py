"""What is trained: quantizer layer, encoders, decoders, discriminators (torch)."""
