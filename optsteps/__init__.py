"""optsteps: time steps of diffusion and flow-matching samplers, searched for your own model."""
