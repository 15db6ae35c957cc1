"""What connectors cost the engines that use them."""
