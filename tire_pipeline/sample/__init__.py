"""Draws photographs of made-up tyres, so that the whole pipeline can be tried where no real photographs may go.

    plan      which tyres exist, what is wrong with each, who photographs it how often   (pure)
    rubber    the tyre's surface laid flat: relief, colour, gloss
    sidewall  tread   defects   marks      draw on that surface
    wheel     backdrop                     what stands around it
    pose      light                        where the camera and the lamps are
    scene     surface + pose + light -> linear picture
    camera    linear picture -> JPEG

Nothing but the rubber tells the classes apart: cameras, views, light, dirt and backgrounds are drawn from the same
distributions for good and for defective tyres. `tests/unit/test_sample.py` measures that.
"""

from __future__ import annotations

from tire_pipeline.sample.draw import SampleSummary, draw_sample

__all__ = ["SampleSummary", "draw_sample"]
