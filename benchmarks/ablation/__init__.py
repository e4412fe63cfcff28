"""What each rule and each quantized layer gives and costs."""
