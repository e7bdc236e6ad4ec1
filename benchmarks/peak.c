/* Multiplications and additions of one x86-64 core, in GOP/s, a line for each kind that it has:
 * float32, bytes (VNNI), and bytes and bfloat16 numbers in matrix registers (AMX). */
#include <immintrin.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 4000000L
#define TWELVE(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* Twelve independent sums hide the latency. */
#define SUMS(name, feature, instruction)                                                           \
    __attribute__((target("avx512f," feature))) static void name(void)                             \
    {                                                                                              \
        for (long i = 0; i < ROUNDS; i++)                                                          \
            __asm__ volatile(TWELVE(instruction)::                                                 \
                                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", \
                                   "xmm8", "xmm9", "xmm10", "xmm11");                              \
    }
#define FLOATS(i) "vfmadd231ps %%zmm12, %%zmm13, %%zmm" #i "\n"
#define BYTES(i) "vpdpbusd %%zmm12, %%zmm13, %%zmm" #i "\n"
SUMS(floats, "avx512f", FLOATS)
SUMS(bytes, "avx512vnni", BYTES)

#define TILES(name, multiply)                                                                      \
    __attribute__((target("amx-tile,amx-int8,amx-bf16"))) static void name(void)                   \
    {                                                                                              \
        const unsigned char shape[64] = {1,        [16] = 64, [18] = 64, [20] = 64, [22] = 64,     \
                                         [24] = 64, [26] = 64, [28] = 64, [30] = 64, [48] = 16,    \
                                         16, 16, 16, 16, 16, 16, 16};                              \
        __asm__ volatile("ldtilecfg %0" : : "m"(shape));                                                    \
        for (long i = 0; i < ROUNDS / 4; i++) {                                                    \
            multiply(0, 4, 6);                                                                     \
            multiply(1, 4, 7);                                                                     \
            multiply(2, 5, 6);                                                                     \
            multiply(3, 5, 7);                                                                     \
        }                                                                                          \
        _tile_release();                                                                           \
    }
TILES(byte_tiles, _tile_dpbsud)
TILES(bfloat16_tiles, _tile_dpbf16ps)

static void measure(const char *what, void (*work)(void), double operations)
{
    double best = 1e9;
    for (int i = 0; i < 5; i++) {
        const double start = now();
        work();
        const double seconds = now() - start;
        best = seconds < best ? seconds : best;
    }
    printf("%s: %.0f GOP/s\n", what, operations * ROUNDS / best / 1e9);
}

int main(void)
{
    if (__builtin_cpu_supports("avx512f"))
        measure("float32 (AVX-512)", floats, 12 * 2 * 16.0);
    if (__builtin_cpu_supports("avx512vnni"))
        measure("bytes (AVX-512 VNNI)", bytes, 12 * 2 * 64.0);
    if (!syscall(SYS_arch_prctl, 0x1023, 18)) { /* the right to use tiles */
        measure("bytes (AMX)", byte_tiles, 2 * 16 * 16 * 64.0);
        measure("bfloat16 (AMX)", bfloat16_tiles, 2 * 16 * 16 * 32.0);
    }
}
