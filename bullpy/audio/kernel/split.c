/* Frames of interleaved samples become one row per channel. */

#include "kernel.h"

/* block: frames x channels; out: channels rows, `stride` floats apart. */
void EXPORT(split_float)(const float *block, int64_t frames, int64_t channels, float *out,
                         int64_t stride)
{
    if (channels == 2) { /* what the compiler turns into shuffles */
        float *left = out, *right = out + stride;
        for (int64_t i = 0; i < frames; i++) {
            left[i] = block[2 * i];
            right[i] = block[2 * i + 1];
        }
        return;
    }
    for (int64_t channel = 0; channel < channels; channel++)
        for (int64_t i = 0; i < frames; i++)
            out[channel * stride + i] = block[i * channels + channel];
}

/* The same for 16-bit integers, whose full scale 2^15 becomes 1. */
void EXPORT(split_int16)(const int16_t *block, int64_t frames, int64_t channels, float *out,
                         int64_t stride)
{
    const float scale = 1.0f / 32768;
    if (channels == 2) {
        float *left = out, *right = out + stride;
        int64_t i = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        for (; i + LANES <= frames; i += LANES) { /* a frame is one integer of 32 bits */
            vi pair;
            memcpy(&pair, block + 2 * i, sizeof pair);
            store(left + i, __builtin_convertvector((pair << 16) >> 16, vf) * scale);
            store(right + i, __builtin_convertvector(pair >> 16, vf) * scale);
        }
#endif
        for (; i < frames; i++) {
            left[i] = (float)block[2 * i] * scale;
            right[i] = (float)block[2 * i + 1] * scale;
        }
        return;
    }
    for (int64_t channel = 0; channel < channels; channel++)
        for (int64_t i = 0; i < frames; i++)
            out[channel * stride + i] = (float)block[i * channels + channel] * scale;
}
