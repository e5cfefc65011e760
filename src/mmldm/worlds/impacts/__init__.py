"""The impacts world: balls of six materials bounce in a box, and every bounce sounds.

`materials`, `physics`, `render`, `sound` and `clips` make footage with true event times; `motion`, `sync`,
`metrics`, `corruptions` and `table` measure footage, rendered or generated, by pixels and waveform alone.
"""
