"""How fast, how large and how costly: sampling and training steps of any recipe or model, measured."""
