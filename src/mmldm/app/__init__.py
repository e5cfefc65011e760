"""The page: a person without a terminal makes sounding clips in a browser (`mmldm app`)."""
