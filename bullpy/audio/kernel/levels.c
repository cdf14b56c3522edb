/* Plain sums and peaks of every cell and block, products of two channels, clipped samples.
 *
 * Sums are in double precision: a square of a float is exact there.
 */

#include "kernel.h"

static inline vd4 wide(const float *at) { return __builtin_convertvector(load4(at), vd4); }
static inline double total(vd4 value) { return (value[0] + value[1]) + (value[2] + value[3]); }

typedef struct {
    double sum, square;
    float peak;
} level;

/* Sum, sum of squares and largest magnitude of x[begin] to x[end - 1]. */
static inline level measure(const float *x, int64_t begin, int64_t end)
{
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
    level found = {total(sum0 + sum1), total(square0 + square1), largest(high)};
    for (; i < end; i++) {
        found.sum += x[i];
        found.square += (double)x[i] * x[i];
        found.peak = fabsf(x[i]) > found.peak ? fabsf(x[i]) : found.peak;
    }
    return found;
}

/* Sum of left times right of every cell. */
static void multiply(const float *left, const float *right, const int64_t *ends, int64_t cells,
                     double *out)
{
    int64_t i = 0;
    for (int64_t cell = 0; cell < cells; cell++) {
        const int64_t end = ends[cell];
        vd4 sum0 = {0}, sum1 = {0};
        for (; i + 8 <= end; i += 8) {
            sum0 += wide(left + i) * wide(right + i);
            sum1 += wide(left + i + 4) * wide(right + i + 4);
        }
        double sum = total(sum0 + sum1);
        for (; i < end; i++)
            sum += (double)left[i] * right[i];
        out[cell] = sum;
    }
}

/* samples: channels rows, `stride` floats apart.
 * ends: where each cell ends, counted from the first sample; block_ends: the same for blocks,
 * which do not end where cells do. Both end with the last sample.
 * sums: rows of one double per cell: the squares of each channel, the samples of each channel,
 * and with two channels their products.
 * peaks: channels x cells; block_squares, block_peaks: channels x blocks. */
void EXPORT(statistics)(const float *samples, int64_t stride, int64_t channels,
                        const int64_t *ends, int64_t cells, const int64_t *block_ends,
                        int64_t blocks, double *sums, float *peaks, double *block_squares,
                        float *block_peaks)
{
    for (int64_t channel = 0; channel < channels; channel++) {
        const float *x = samples + channel * stride;
        level whole = {0, 0, 0}; /* of the block so far */
        int64_t begin = 0, block = 0;
        for (int64_t cell = 0; cell < cells; cell++) {
            level found = {0, 0, 0};
            while (begin < ends[cell]) {
                const int cut = block_ends[block] <= ends[cell];
                const int64_t end = cut ? block_ends[block] : ends[cell];
                const level part = measure(x, begin, end);
                found.sum += part.sum;
                found.square += part.square;
                found.peak = part.peak > found.peak ? part.peak : found.peak;
                whole.square += part.square;
                whole.peak = part.peak > whole.peak ? part.peak : whole.peak;
                if (cut) {
                    block_squares[channel * blocks + block] = whole.square;
                    block_peaks[channel * blocks + block] = whole.peak;
                    whole = (level){0, 0, 0};
                    block++;
                }
                begin = end;
            }
            sums[channel * cells + cell] = found.square;
            sums[(channels + channel) * cells + cell] = found.sum;
            peaks[channel * cells + cell] = found.peak;
        }
    }
    if (channels == 2)
        multiply(samples, samples + stride, ends, cells, sums + 4 * cells);
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
