"""Getting models onto this machine: the two that come out of wheels, any Hub id, any local folder; safetensors only."""
