/* What the passes share: vectors, names and rounding.
 *
 * Every .c file but variant.c is compiled twice on x86-64: as it is ("baseline": SSE2), and
 * with AVX2 and FMA ("avx2"). Elsewhere there is the baseline alone, which is NEON on aarch64.
 * The vectors are those of GCC and Clang, as wide as one register of the variant: wider ones
 * would be split by the compiler and spill.
 */
#ifndef BULLPY_KERNEL_H
#define BULLPY_KERNEL_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#define JOIN_(name, variant) bullpy_##name##_##variant
#define JOIN(name, variant) JOIN_(name, variant)
#define EXPORT(name) __attribute__((visibility("default"))) JOIN(name, VARIANT)

#ifdef __AVX2__
#define LANES 8
#else
#define LANES 4
#endif

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef float vf4 __attribute__((vector_size(16)));
typedef double vd2 __attribute__((vector_size(16)));
typedef double vd4 __attribute__((vector_size(32)));
/* The same, at any address. */
typedef float vf_at __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float vf4_at __attribute__((vector_size(16), aligned(4), may_alias));

static inline vf load(const float *at) { return *(const vf_at *)at; }
static inline void store(float *at, vf value) { *(vf_at *)at = value; }
static inline vf4 load4(const float *at) { return *(const vf4_at *)at; }
static inline vf absolute(vf value) { return (vf)((vi)value & 0x7fffffff); }
#if defined(__AVX2__)
static inline vf larger(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
#elif defined(__SSE2__)
static inline vf larger(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
#else
static inline vf larger(vf a, vf b)
{
    vi first = a > b;
    return (vf)(((vi)a & first) | ((vi)b & ~first));
}
#endif
static inline vf same(float value) { return value - (vf){0}; }

static inline float largest(vf value)
{
#ifdef __SSE2__ /* in halves: one lane after the other would wait for each comparison */
#ifdef __AVX2__
    __m128 half = _mm_max_ps(_mm256_castps256_ps128((__m256)value),
                             _mm256_extractf128_ps((__m256)value, 1));
#else
    __m128 half = (__m128)value;
#endif
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
#else
    float found = value[0];
    for (int lane = 1; lane < LANES; lane++)
        found = value[lane] > found ? value[lane] : found;
    return found;
#endif
}

/* GCC before 12 has its own name for the shuffle that Clang and it agree on since. */
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
#endif

/* Numbers below the normal range count as 0 while a pass runs: after the end of a sound a
 * recursive filter decays through them, and each operation on one costs a hundred others. */
#if defined(__x86_64__) || defined(__i386__)
typedef unsigned int rounding;
static inline rounding flush_denormals(void)
{
    rounding before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); /* flush to zero, denormals are zero */
    return before;
}
static inline void restore(rounding before) { _mm_setcsr(before); }
#elif defined(__aarch64__)
typedef uint64_t rounding;
static inline rounding flush_denormals(void)
{
    rounding before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (UINT64_C(1) << 24)));
    return before;
}
static inline void restore(rounding before) { __asm__ volatile("msr fpcr, %0" : : "r"(before)); }
#else
typedef int rounding;
static inline rounding flush_denormals(void) { return 0; }
static inline void restore(rounding before) { (void)before; }
#endif

#endif
