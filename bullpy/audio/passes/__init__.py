"""The passes over a file, in numpy: each turns chunks into one part of `RawMeasurement`.

    weighting   K-weighted energy of every cell
    levels      sums, squares, peaks, products and clipped samples
    truepeak    the level between the samples
    spectrum    one row of features per spectrum frame

Each has `push(chunk)` and, at the end, `result()`. These are the definition: the compiled
passes of `bullpy.audio.kernel` are tested against them, and replace them where they run.
"""
