/* Power spectrum of overlapping frames, and what each frame says of it.
 *
 * As many frames as a vector has lanes are transformed together, one in each lane. So no step
 * of the transform and no sum over bins mixes lanes, and every size works alike. Two channels
 * share a transform, left as the real and right as the imaginary part: the sum of their powers
 * at bin k is the mean of |Z(k)|^2 and |Z(N - k)|^2.
 *
 * The transform of N = N1 N2 samples is the four-step algorithm (Bailey 1990): N2 transforms
 * of N1 samples, a rotation, N1 transforms of N2 samples, each small enough for the nearest
 * cache. These are Stockham's, radix 4, which needs no reordering (Van Loan 1992, 1.7).
 */

#include "kernel.h"

typedef struct {
    vf re, im;
} complex_lanes;

enum { FEATURES = 12, BANDS = 7, LARGEST = 256, PAD = 1, RENORMALIZE = 64 };

typedef struct {
    int64_t size, hop, rows, columns; /* rows x columns = size */
    const float *window;              /* size */
    const float *turns;               /* size x 2: cosine and sine of -2 pi k / size */
    const int64_t *edges;             /* first bin of each band, and the one after the last */
    complex_lanes *work;              /* rows x (columns + PAD) */
    vf *power;                        /* size / 2 + 1 */
    vf *sums;                         /* size / 2 + 1: power of the frames of a call, by lane */
} plan;

static inline complex_lanes turned(complex_lanes value, const float *turn)
{
    const vf c = same(turn[0]), s = same(turn[1]);
    return (complex_lanes){value.re * c - value.im * s, value.re * s + value.im * c};
}

static inline complex_lanes plus(complex_lanes a, complex_lanes b)
{
    return (complex_lanes){a.re + b.re, a.im + b.im};
}

static inline complex_lanes minus(complex_lanes a, complex_lanes b)
{
    return (complex_lanes){a.re - b.re, a.im - b.im};
}

/* Transform of n samples, n a power of two. Both buffers are overwritten; returns the one that
 * holds the result. `step` is the distance of a turn by 1/n in the table. */
static complex_lanes *transform(complex_lanes *x, complex_lanes *y, int64_t n,
                                const float *turns, int64_t step)
{
    int64_t stride = 1;
    for (; n >= 4; n /= 4, stride *= 4) {
        const int64_t quarter = n / 4, span = quarter * stride;
        for (int64_t p = 0; p < quarter; p++) {
            const float *turn = turns + 2 * p * stride * step;
            const float *turn2 = turns + 4 * p * stride * step;
            const float *turn3 = turns + 6 * p * stride * step;
            const complex_lanes *in = x + p * stride;
            complex_lanes *out = y + 4 * p * stride;
            for (int64_t q = 0; q < stride; q++) {
                const complex_lanes a = in[q], b = in[q + span];
                const complex_lanes c = in[q + 2 * span], d = in[q + 3 * span];
                const complex_lanes ac = plus(a, c), bd = plus(b, d);
                const complex_lanes a_c = minus(a, c), b_d = minus(b, d);
                const complex_lanes one = {a_c.re + b_d.im, a_c.im - b_d.re};
                const complex_lanes three = {a_c.re - b_d.im, a_c.im + b_d.re};
                out[q] = plus(ac, bd);
                if (p) {
                    out[q + stride] = turned(one, turn);
                    out[q + 2 * stride] = turned(minus(ac, bd), turn2);
                    out[q + 3 * stride] = turned(three, turn3);
                } else {
                    out[q + stride] = one;
                    out[q + 2 * stride] = minus(ac, bd);
                    out[q + 3 * stride] = three;
                }
            }
        }
        complex_lanes *swap = x;
        x = y, y = swap;
    }
    if (n == 2) {
        for (int64_t q = 0; q < stride; q++) {
            y[q] = plus(x[q], x[q + stride]);
            y[q + stride] = minus(x[q], x[q + stride]);
        }
        return y;
    }
    return x;
}

/* Four samples of each lane's frame, windowed; out[i] holds sample i of all frames. */
static inline void gather(const float *const *frames, int64_t at, const float *window, vf *out)
{
    const vf4 w4 = load4(window + at);
    vf v[4];
    for (int i = 0; i < 4; i++) {
#if LANES == 8
        const vf4 a = load4(frames[i] + at) * w4, b = load4(frames[i + 4] + at) * w4;
        v[i] = (vf)_mm256_insertf128_ps(_mm256_castps128_ps256((__m128)a), (__m128)b, 1);
#else
        v[i] = load4(frames[i] + at) * w4;
#endif
    }
    /* Transposes 4 x 4, in each half of a wide register. */
#if LANES == 8
    const vf p = SHUFFLE(v[0], v[1], 0, 8, 1, 9, 4, 12, 5, 13);
    const vf q = SHUFFLE(v[0], v[1], 2, 10, 3, 11, 6, 14, 7, 15);
    const vf r = SHUFFLE(v[2], v[3], 0, 8, 1, 9, 4, 12, 5, 13);
    const vf s = SHUFFLE(v[2], v[3], 2, 10, 3, 11, 6, 14, 7, 15);
    out[0] = SHUFFLE(p, r, 0, 1, 8, 9, 4, 5, 12, 13);
    out[1] = SHUFFLE(p, r, 2, 3, 10, 11, 6, 7, 14, 15);
    out[2] = SHUFFLE(q, s, 0, 1, 8, 9, 4, 5, 12, 13);
    out[3] = SHUFFLE(q, s, 2, 3, 10, 11, 6, 7, 14, 15);
#else
    const vf p = SHUFFLE(v[0], v[1], 0, 4, 1, 5), q = SHUFFLE(v[0], v[1], 2, 6, 3, 7);
    const vf r = SHUFFLE(v[2], v[3], 0, 4, 1, 5), s = SHUFFLE(v[2], v[3], 2, 6, 3, 7);
    out[0] = SHUFFLE(p, r, 0, 1, 4, 5), out[1] = SHUFFLE(p, r, 2, 3, 6, 7);
    out[2] = SHUFFLE(q, s, 0, 1, 4, 5), out[3] = SHUFFLE(q, s, 2, 3, 6, 7);
#endif
}

/* First half of the four-step algorithm: transforms over columns, and the rotation. */
static void columns(const plan *this, const float *const *left, const float *const *right)
{
    complex_lanes column[4][LARGEST], spare[LARGEST];
    for (int64_t first = 0; first < this->columns; first += 4) {
        for (int64_t row = 0; row < this->rows; row++) {
            vf re[4], im[4] = {{0}};
            gather(left, row * this->columns + first, this->window, re);
            if (right)
                gather(right, row * this->columns + first, this->window, im);
            for (int i = 0; i < 4; i++)
                column[i][row] = (complex_lanes){re[i], im[i]};
        }
        for (int i = 0; i < 4; i++) {
            const complex_lanes *found =
                transform(column[i], spare, this->rows, this->turns, this->columns);
            complex_lanes *out = this->work + first + i;
            for (int64_t row = 0; row < this->rows; row++)
                out[row * (this->columns + PAD)] =
                    turned(found[row], this->turns + 2 * row * (first + i));
        }
    }
}

static inline vf square(complex_lanes value)
{
    return value.re * value.re + value.im * value.im;
}

/* Second half, and the power of each bin below and at half the rate. Row r of the result holds
 * the bins r, r + rows, ...; bin N - k is found in the row that mirrors it. */
static void add_power(const plan *this, float scale)
{
    complex_lanes spare[2][LARGEST];
    const int64_t rows = this->rows, n = this->columns;
    const vf half = same(0.5f * scale);
    for (int64_t row = 0; row <= rows / 2; row++) {
        const int alone = row == 0 || row == rows / 2;
        const complex_lanes *a =
            transform(this->work + row * (n + PAD), spare[0], n, this->turns, rows);
        const complex_lanes *b = a;
        if (!alone)
            b = transform(this->work + (rows - row) * (n + PAD), spare[1], n, this->turns, rows);
        for (int64_t k = 0; k < n / 2; k++) {
            const int64_t mirror = row ? n - 1 - k : (n - k) % n;
            this->power[row + rows * k] += half * (square(a[k]) + square(b[mirror]));
            if (!alone)
                this->power[rows - row + rows * k] += half * (square(b[k]) + square(a[mirror]));
        }
        if (row == 0)
            this->power[this->size / 2] += same(scale) * square(a[n / 2]);
    }
}

static inline vf root(vf value)
{
    vf out;
    for (int lane = 0; lane < LANES; lane++)
        out[lane] = sqrtf(value[lane]);
    return out;
}

static inline float sum_of(vf a)
{
#if LANES == 8
    return ((a[0] + a[4]) + (a[1] + a[5])) + ((a[2] + a[6]) + (a[3] + a[7]));
#else
    return (a[0] + a[2]) + (a[1] + a[3]);
#endif
}

/* The lanes of a, moved up by one, with `first` in the lowest. */
static inline vf after(vf a, float first)
{
#if LANES == 8
    return SHUFFLE(a, same(first), 8, 0, 1, 2, 3, 4, 5, 6);
#else
    return SHUFFLE(a, same(first), 4, 0, 1, 2);
#endif
}

/* The geometric mean of many numbers as the sum of their exponents and the product of their
 * mantissas: one multiplication each instead of a logarithm. */
typedef struct {
    vf product;
    vi exponent;
} geometric;

static inline void multiply(geometric *this, vf value)
{
    this->exponent += ((vi)value >> 23) - 127;
    this->product *= (vf)(((vi)value & 0x7fffff) | 0x3f800000);
}

static inline void renormalize(geometric *this)
{
    const vf product = this->product;
    this->product = same(1);
    multiply(this, product);
}

/* One row of features for each of the first `count` lanes. */
static void describe(const plan *this, int count, float width, float rolloff, float floor,
                     float *previous, float *out)
{
    const int64_t bins = this->size / 2 + 1;
    const vf *power = this->power;
    vf total = {0}, moment = {0}, change = {0}, band[BANDS + 2];
    geometric mean = {same(1), {0}};
    vi active;
    for (int lane = 0; lane < LANES; lane++)
        active[lane] = lane < count ? -1 : 0;
    int64_t k = 0;
    for (int part = 0; part < BANDS + 2; part++) { /* below the bands, the bands, above them */
        const int64_t end = part < BANDS + 1 ? this->edges[part] : bins;
        vf sum = {0};
        for (; k < end; k++) {
            const vf p = power[k], magnitude = root(p);
            const vf step = magnitude - after(magnitude, previous[k]);
            sum += p;
            moment += same((float)k) * p;
            change += step * step;
            previous[k] = magnitude[count - 1];
            if (k) {
                multiply(&mean, p + floor);
                if (k % RENORMALIZE == 0)
                    renormalize(&mean);
            }
            this->sums[k] += (vf)((vi)p & active);
        }
        band[part] = sum;
        total += sum;
    }
    renormalize(&mean);

    const vf wanted = total * rolloff;
    vf running = {0};
    vi below = {0};
    for (k = 0; k < bins; k++) {
        running += power[k];
        below -= running < wanted;
    }
    for (int lane = 0; lane < count; lane++) {
        float *row = out + lane * FEATURES;
        const double tones = (double)(bins - 1);
        const double level = (mean.exponent[lane] + log2(mean.product[lane])) / tones;
        const double arithmetic = ((double)total[lane] - power[0][lane]) / tones;
        const double flatness = exp2(level) / (arithmetic > floor ? arithmetic : floor);
        row[0] = total[lane] / 3; /* Parseval, and Hann's noise bandwidth of 1.5 bins */
        row[1] = width * moment[lane] / (total[lane] > floor ? total[lane] : floor);
        row[2] = width * (float)(below[lane] < bins ? below[lane] : bins - 1);
        row[3] = flatness < 1 ? (float)flatness : 1;
        row[4] = sqrtf(change[lane]);
        for (int i = 0; i < BANDS; i++)
            row[5 + i] = band[1 + i][lane];
    }
}

/* Floats of the buffer that a transform of `size` samples needs. */
int64_t EXPORT(spectrum_work)(int64_t size)
{
    return LANES * (2 * (size + LARGEST * PAD) + 2 * (size / 2 + 1));
}

/* data: channels rows, `stride` floats apart, starting with the first frame.
 * size: samples of a frame, a power of two, 4096 to 65536; hop: from frame to frame.
 * window, turns, edges, work: see `plan`; work is aligned to 64 bytes.
 * scale: of the power; width: of a bin, Hz; rolloff: share; floor: see passes/spectrum.py.
 * average: size / 2 + 1, added to; previous: size / 2 + 1, kept from call to call.
 * out: frames x 12. */
void EXPORT(spectrum)(const float *data, int64_t stride, int64_t channels, int64_t frames,
                      int64_t size, int64_t hop, const float *window, const float *turns,
                      const int64_t *edges, float *work, float scale, float width,
                      float rolloff, float floor, double *average, float *previous, float *out)
{
    plan this = {.size = size, .hop = hop, .rows = 64, .window = window, .turns = turns,
                 .edges = edges};
    while (this.rows * this.rows * 4 <= size)
        this.rows *= 2;
    this.columns = size / this.rows;
    this.work = (complex_lanes *)work;
    this.power = (vf *)(this.work + this.rows * (this.columns + PAD));
    const int64_t bins = size / 2 + 1;
    this.sums = this.power + bins;
    memset(this.sums, 0, sizeof(vf) * (size_t)bins);
    const rounding before = flush_denormals();
    for (int64_t first = 0; first < frames; first += LANES) {
        const int count = frames - first < LANES ? (int)(frames - first) : LANES;
        memset(this.power, 0, sizeof(vf) * (size_t)bins);
        for (int64_t channel = 0; channel < channels; channel += 2) {
            const float *left[LANES], *right[LANES];
            for (int lane = 0; lane < LANES; lane++) { /* idle lanes repeat the last frame */
                const int64_t frame = first + (lane < count ? lane : count - 1);
                left[lane] = data + channel * stride + frame * hop;
                right[lane] = left[lane] + stride;
            }
            columns(&this, left, channel + 1 < channels ? right : 0);
            add_power(&this, scale);
        }
        describe(&this, count, width, rolloff, floor, previous, out + first * FEATURES);
    }
    for (int64_t k = 0; k < bins; k++) /* double precision from call to call */
        average[k] += sum_of(this.sums[k]);
    restore(before);
}
