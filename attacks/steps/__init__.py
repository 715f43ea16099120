"""Goals, gradient steps and optimisers that several attacks share."""
