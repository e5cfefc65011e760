"""The Freedoom world: a shooting range in a game that others made, seen and heard, with its true events.

`scenarios`, `game`, `player` and `clips` make footage with the `vizdoom` package (extra `worlds`); `shots`,
`labels`, `metrics` and `table` measure footage, real or generated, by pixels and waveform alone.
"""
