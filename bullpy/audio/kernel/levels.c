/* Plain sums and peaks of every segment, the product of two channels, and clipped samples.
 *
 * Sums are in double precision: a square of a float is exact there.
 */

#include "kernel.h"

static inline vd4 wide(const float *at) { return __builtin_convertvector(load4(at), vd4); }
static inline double total(vd4 value) { return (value[0] + value[1]) + (value[2] + value[3]); }

/* Sum, sum of squares and largest magnitude; each out is channels x segments. */
void EXPORT(statistics)(const float *samples, int64_t stride, int64_t channels,
                        const int64_t *ends, int64_t segments, double *sums, double *squares,
                        float *peaks)
{
    for (int64_t channel = 0; channel < channels; channel++) {
        const float *x = samples + channel * stride;
        int64_t begin = 0;
        for (int64_t segment = 0; segment < segments; segment++) {
            const int64_t end = ends[segment], at = channel * segments + segment;
            vd4 sum0 = {0}, sum1 = {0}, square0 = {0}, square1 = {0};
            vf high = {0};
            int64_t i = begin;
            for (; i + 8 <= end; i += 8) {
                const vd4 a = wide(x + i), b = wide(x + i + 4);
                sum0 += a, sum1 += b;
                square0 += a * a, square1 += b * b;
                high = larger(high, absolute(load(x + i)));
#if LANES == 4
                high = larger(high, absolute(load(x + i + 4)));
#endif
            }
            float peak = largest(high);
            double sum = total(sum0 + sum1), square = total(square0 + square1);
            for (; i < end; i++) {
                sum += x[i];
                square += (double)x[i] * x[i];
                peak = fabsf(x[i]) > peak ? fabsf(x[i]) : peak;
            }
            sums[at] = sum;
            squares[at] = square;
            peaks[at] = peak;
            begin = end;
        }
    }
}

/* Sum of left times right of every segment. */
void EXPORT(products)(const float *left, const float *right, const int64_t *ends,
                      int64_t segments, double *out)
{
    int64_t i = 0;
    for (int64_t segment = 0; segment < segments; segment++) {
        const int64_t end = ends[segment];
        vd4 sum0 = {0}, sum1 = {0};
        for (; i + 8 <= end; i += 8) {
            sum0 += wide(left + i) * wide(right + i);
            sum1 += wide(left + i + 4) * wide(right + i + 4);
        }
        double sum = total(sum0 + sum1);
        for (; i < end; i++)
            sum += (double)left[i] * right[i];
        out[segment] = sum;
    }
}

/* counts: samples at or above `level`, runs of `run` and more of them, and how many of them
 * in a row end what was counted so far. Kept from call to call. */
void EXPORT(clipped)(const float *x, int64_t frames, float level, int64_t run, int64_t *counts)
{
    int64_t samples = counts[0], runs = counts[1], open = counts[2];
    for (int64_t i = 0; i < frames; i++) {
        if (!open) /* most samples are far from full scale: pass over them quickly */
            while (i + LANES <= frames && largest(absolute(load(x + i))) < level)
                i += LANES;
        if (i < frames && fabsf(x[i]) >= level) {
            samples++;
            runs += ++open == run;
        } else {
            open = 0;
        }
    }
    counts[0] = samples, counts[1] = runs, counts[2] = open;
}
