/* True peak: ITU-R BS.1770-5 Annex 2, four times oversampling, and a parabola through each
 * highest point and its neighbours (passes/truepeak.py says why).
 *
 * A row of samples is skipped when no point of it can exceed what its segment has reached. The
 * filter is split for that: a point lies on the straight line between its two samples, plus a
 * sum of second differences around, since what the filter adds to the line has no part at DC
 * and no slope (Peano's kernel; the little that it has goes to the two samples). So a point is
 * at most `level` times the largest sample of the row plus `curvature` times the largest second
 * difference around it. In music, where low frequencies dominate, that leaves little to do.
 */

#include "kernel.h"

enum { HALF = 12, TAPS = 2 * HALF, PHASES = 4, WIDE = 4, ROW = WIDE * LANES };

/* The largest magnitude of x from `from` to `to`. */
static inline float reach(const float *x, int from, int to)
{
    if (to - from < LANES) {
        float found = 0;
        for (int i = from; i < to; i++)
            found = fabsf(x[i]) > found ? fabsf(x[i]) : found;
        return found;
    }
    vf high = absolute(load(x + to - LANES));
    for (int i = from; i + LANES <= to; i += LANES)
        high = larger(high, absolute(load(x + i)));
    return largest(high);
}

/* The largest second difference of x at `from` to `to`, LANES places or more. */
static inline float bend(const float *x, int from, int to)
{
    vf high = {0};
    for (int i = from;; i = i + 2 * LANES <= to ? i + LANES : to - LANES) {
        const vf twice = 2 * load(x + i);
        high = larger(high, absolute(load(x + i - 1) + load(x + i + 1) - twice));
        if (i + LANES >= to)
            return largest(high);
    }
}

/* Points of one row: [0] the samples, [1] to [3] what lies 1/4, 2/4 and 3/4 after each. One
 * more point stands before and behind: the neighbours of the first and of the last. */
typedef float row_points[PHASES][1 + ROW + 1];

/* The three points between x[i] and x[i + 1], for all i of a row. Taps -11 to 12. */
static void interpolate(const float *x, const float *taps, row_points points)
{
    vf y1[WIDE] = {{0}}, y2[WIDE] = {{0}}, y3[WIDE] = {{0}};
    for (int tap = 0; tap < TAPS; tap++) {
        const vf h1 = same(taps[tap]), h2 = same(taps[TAPS + tap]);
        const vf h3 = same(taps[2 * TAPS + tap]);
        for (int j = 0; j < WIDE; j++) {
            const vf value = load(x + tap - (HALF - 1) + j * LANES);
            y1[j] += h1 * value, y2[j] += h2 * value, y3[j] += h3 * value;
        }
    }
    for (int j = 0; j < WIDE; j++) {
        store(points[1] + 1 + j * LANES, y1[j]);
        store(points[2] + 1 + j * LANES, y2[j]);
        store(points[3] + 1 + j * LANES, y3[j]);
    }
}

/* The neighbours that `interpolate` leaves out: the last point before the row, the samples. */
static void complete(const float *x, const float *taps, row_points points)
{
    float sum = 0;
    for (int tap = 0; tap < TAPS; tap++)
        sum += taps[2 * TAPS + tap] * x[tap - HALF];
    points[3][0] = sum;
    memcpy(points[0] + 1, x, sizeof(float) * (ROW + 1));
}

/* The top of the parabola through three points; 0 where the middle one is not the highest. */
static inline vf summit(vf before, vf at, vf after)
{
    const vi sign = (vi)at & INT32_MIN;
    const vf size = absolute(at);
    const vi top = (size >= absolute(before)) & (size >= absolute(after));
    before = larger((vf)((vi)before ^ sign), (vf){0});
    after = larger((vf)((vi)after ^ sign), (vf){0});
    const vf curve = 2 * size - before - after, slope = before - after;
    /* Where all three are equal curve and slope are 0. */
    return (vf)((vi)(size + slope * slope / (8 * larger(curve, same(1e-30f)))) & top);
}

/* The highest summit among the first `count` samples of a row and the points after them. */
static float refine(row_points points, int count, float peak, float parabola)
{
    vf found = {0};
    for (int j = 0; j < count; j += LANES) {
        const vf p0 = load(points[0] + 1 + j), p1 = load(points[1] + 1 + j);
        const vf p2 = load(points[2] + 1 + j), p3 = load(points[3] + 1 + j);
        const vf high = larger(larger(absolute(p0), absolute(p1)),
                               larger(absolute(p2), absolute(p3)));
        if (largest(high) * parabola <= peak)
            continue;
        vf top = larger(summit(load(points[3] + j), p0, p1), summit(p0, p1, p2));
        top = larger(top, summit(p1, p2, p3));
        top = larger(top, summit(p2, p3, load(points[0] + 2 + j)));
        for (int lane = count - j; lane < LANES; lane++)
            top[lane] = 0; /* beyond the segment */
        found = larger(found, top);
    }
    return largest(found) > peak ? largest(found) : peak;
}

static __attribute__((noinline)) float segment_peak(const float *x, int64_t frames,
                                                    const float *taps, float level,
                                                    float curvature, float parabola)
{
    row_points points;
    float peak = 0;
    for (int64_t at = 0; at < frames; at += ROW) {
        const int64_t left = frames - at;
        const float high = reach(x + at, 0, left < ROW ? (int)left : ROW);
        peak = high > peak ? high : peak;
    }
    for (int64_t at = 0; at < frames; at += ROW) {
        const float *row = x + at;
        const int count = frames - at < ROW ? (int)(frames - at) : ROW;
        const float line = level * reach(row, -1, count + 2);
        if (line + curvature * bend(row, 1 - HALF, count + HALF - 1) <= peak)
            continue;
        interpolate(row, taps, points);
        complete(row, taps, points);
        peak = refine(points, count, peak, parabola);
    }
    return peak;
}

/* data: channels rows, `stride` floats apart; sample `at` of a row is the first one measured,
 * and at least 12 lie before it and 45 behind the last one.
 * taps: 3 x 24, for the points 1/4, 2/4 and 3/4 after a sample.
 * level, curvature: see above, the parabola included.
 * peaks: channels x segments. */
void EXPORT(true_peak)(const float *data, int64_t stride, int64_t channels, int64_t at,
                       const int64_t *ends, int64_t segments, const float *taps, float level,
                       float curvature, float parabola, double *peaks)
{
    const rounding before = flush_denormals();
    for (int64_t channel = 0; channel < channels; channel++) {
        const float *x = data + channel * stride + at;
        int64_t begin = 0;
        for (int64_t segment = 0; segment < segments; segment++) {
            peaks[channel * segments + segment] =
                segment_peak(x + begin, ends[segment] - begin, taps, level, curvature,
                             parabola);
            begin = ends[segment];
        }
    }
    restore(before);
}
