/* K-weighting and the energy of every cell: ITU-R BS.1770-5 Annex 1, stages 1 and 2.
 *
 * Two biquads in direct form I, in double precision: the poles of the high-pass lie so close
 * to 1 that single precision would drown quiet passages. Two channels share a register.
 */

#include "kernel.h"

enum { STATES = 6 };

static vd2 pair(const double *state, int64_t second, int index)
{
    return (vd2){state[index], state[second * STATES + index]};
}

static void keep(double *state, int64_t second, int index, vd2 value)
{
    state[second * STATES + index] = value[1];
    state[index] = value[0]; /* last: one channel alone fills both halves */
}

/* One pair of channels. `second` is 1, or 0 when there is no second channel. */
static __attribute__((noinline)) void filter(const float *a, const float *b, int64_t second,
                                             const int64_t *ends, int64_t segments,
                                             const double *coefficients, double *state,
                                             double *energy)
{
    const double *k = coefficients;
    const vd2 b0 = {k[0], k[0]}, b1 = {k[1], k[1]}, b2 = {k[2], k[2]};
    const vd2 a1 = {k[3], k[3]}, a2 = {k[4], k[4]}, e1 = {k[5], k[5]}, e2 = {k[6], k[6]};
    vd2 x1 = pair(state, second, 0), x2 = pair(state, second, 1);
    vd2 u1 = pair(state, second, 2), u2 = pair(state, second, 3);
    vd2 y1 = pair(state, second, 4), y2 = pair(state, second, 5);
    int64_t i = 0;
    for (int64_t segment = 0; segment < segments; segment++) {
        vd2 sum = {0, 0};
        for (; i < ends[segment]; i++) {
            const vd2 x = {a[i], b[i]};
            /* What waits for the sample before comes last in each sum: it is the one chain
             * of operations that cannot overlap. */
            const vd2 u = (b0 * x + (b1 * x1 + (b2 * x2 - a2 * u2))) - a1 * u1;
            const vd2 y = ((u - u1 - u1) + (u2 - e2 * y2)) - e1 * y1;
            x2 = x1, x1 = x, u2 = u1, u1 = u, y2 = y1, y1 = y;
            sum += y * y;
        }
        energy[second * segments + segment] = sum[1];
        energy[segment] = sum[0];
    }
    keep(state, second, 0, x1), keep(state, second, 1, x2);
    keep(state, second, 2, u1), keep(state, second, 3, u2);
    keep(state, second, 4, y1), keep(state, second, 5, y2);
}

/* samples: channels rows, `stride` floats apart.
 * ends: where each segment ends, counted from the first sample.
 * coefficients: b0 b1 b2 a1 a2 of the shelf, a1 a2 of the high-pass (its b are 1 -2 1).
 * state: channels x 6, kept from call to call.
 * energy: channels x segments. */
void EXPORT(weighting)(const float *samples, int64_t stride, int64_t channels,
                       const int64_t *ends, int64_t segments, const double *coefficients,
                       double *state, double *energy)
{
    const rounding before = flush_denormals();
    for (int64_t c = 0; c < channels; c += 2) {
        const int64_t second = c + 1 < channels;
        const float *row = samples + c * stride;
        filter(row, row + second * stride, second, ends, segments, coefficients,
               state + c * STATES, energy + c * segments);
    }
    restore(before);
}
