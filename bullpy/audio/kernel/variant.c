/* Which variant of the passes this machine runs, and which interface the library has. */

#define EXPORT __attribute__((visibility("default")))

/* Raised with every change of a function's arguments; library.py holds the same number. */
EXPORT int bullpy_interface(void) { return 3; }

/* 1 when the "avx2" functions are there and this processor can run them. */
EXPORT int bullpy_has_avx2(void)
{
#ifdef WITH_AVX2
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 0;
#endif
}

/* The hash of the sources that this was built from: build.py looks for it in the file. */
EXPORT const char bullpy_sources[] = "bullpy-kernel-sources:" SOURCES;
