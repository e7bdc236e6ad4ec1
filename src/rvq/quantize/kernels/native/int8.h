/* Scores within known bounds from products of 8-bit numbers, four of which go at once.
 *
 * A vector x and a codeword c, both less the codebook's centre, are rounded to x^ and c^. By Cauchy
 * and Schwarz |x.c - x^.c^| <= |x - x^| |c| + |x^| |c - c^|, so only few codewords can have the best
 * score. Those are compared in float32, and in float64 where even that does not tell. How numbers are
 * rounded here decides the speed, never the result.
 */
#include <immintrin.h>

#define TARGET8 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define MOST_RIVALS 32 /* codewords compared one by one; beyond, all are scored in float32 */

typedef struct {
    int32_t *quads;     /* four signed bytes each, [CHUNK][quads of a row] */
    int32_t sum[CHUNK]; /* of a row's bytes */
    float step[CHUNK];  /* a byte of 1 stands for this */
    float size[CHUNK];  /* |x^| */
    float error[CHUNK]; /* |x - x^|; infinity for vectors too small or large for bounds */
} Rounded;

static inline long quads_of(long dim) { return (dim + 3) / 4; }

TARGET8 static void round_rows(const float *x, long rows, const Books *books, long stage,
                               Rounded *to)
{
    const long dim = books->dim, quads = quads_of(dim);
    const float *centre = books->centres + stage * dim;
    for (long row = 0; row < CHUNK; row++) {
        if (row >= rows) {
            to->sum[row] = 0;
            to->step[row] = 0;
            continue;
        }
        const float *v = x + row * dim;
        __m512 greatest = _mm512_setzero_ps();
        for (long d = 0; d < dim; d += 16) {
            const __mmask16 mask = d + 16 <= dim ? 0xFFFF : (1u << (dim - d)) - 1;
            const __m512 part = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, v + d),
                                              _mm512_maskz_loadu_ps(mask, centre + d));
            greatest = _mm512_max_ps(greatest, _mm512_abs_ps(part));
        }
        const float most = _mm512_reduce_max_ps(greatest);
        const int usable = most == 0 || (most > 1e-30f && most < 1e15f);
        const __m512 scale = _mm512_set1_ps(usable && most > 0 ? 127 / most : 0);
        __m512 errors = _mm512_setzero_ps(), sizes = errors;
        __m512i sums = _mm512_setzero_si512();
        int8_t *bytes = (int8_t *)(to->quads + row * quads);
        for (long d = 0; d < 4 * quads; d += 16) {
            const __mmask16 mask = d + 16 <= dim ? 0xFFFF : (1u << (dim - d)) - 1;
            const __mmask16 whole = d + 16 <= 4 * quads ? 0xFFFF : (1u << (4 * quads - d)) - 1;
            const __m512 part = _mm512_mul_ps(
                scale, _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, v + d),
                                     _mm512_maskz_loadu_ps(mask, centre + d)));
            const __m512i whole_numbers = _mm512_cvtps_epi32(part);
            const __m512 rounded = _mm512_cvtepi32_ps(whole_numbers);
            const __m512 error = _mm512_sub_ps(part, rounded);
            errors = _mm512_fmadd_ps(error, error, errors);
            sizes = _mm512_fmadd_ps(rounded, rounded, sizes);
            sums = _mm512_add_epi32(sums, whole_numbers);
            _mm512_mask_cvtsepi32_storeu_epi8(bytes + d, whole, whole_numbers);
        }
        to->sum[row] = _mm512_reduce_add_epi32(sums);
        to->step[row] = usable ? most / 127 : 0;
        to->size[row] = to->step[row] * sqrtf(_mm512_reduce_add_ps(sizes));
        to->error[row] = usable ? to->step[row] * sqrtf(_mm512_reduce_add_ps(errors)) : INFINITY;
    }
}

/* What _mm512_dpbusd_epi32 does; with that, gcc 12 copies sums to and fro. */
#define ADD_PRODUCTS(sum, unsigned_bytes, signed_bytes)                                            \
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(signed_bytes))

/* Scores of rounded vectors; codewords are unsigned bytes, 128 too large. */
TARGET8 static void scores_int8(const Rounded *x, long rows, const Books *books, long stage,
                                float *scores, long stride)
{
    const long quads = quads_of(books->dim), padded = books->padded;
    const uint8_t *packed = books->packed8 + stage * padded * quads * 4;
    const float *steps = books->levels8 + 3 * stage * padded, *offsets = steps + padded;
    for (long k = 0; k < padded; k += PANEL)
        for (long row = 0; row < rows; row += 12) {
            __m512i a[12], b[12];
#pragma GCC unroll 12
            for (int r = 0; r < 12; r++)
                a[r] = b[r] = _mm512_set1_epi32(-128 * x->sum[row + r]);
            const uint8_t *panel = packed + k * quads * 4;
            const int32_t *from = x->quads + row * quads;
            for (long d = 0; d < quads; d++) {
                const __m512i p = _mm512_loadu_si512(panel), q = _mm512_loadu_si512(panel + 64);
#pragma GCC unroll 12
                for (int r = 0; r < 12; r++) {
                    const __m512i v = _mm512_set1_epi32(from[r * quads + d]);
                    ADD_PRODUCTS(a[r], p, v);
                    ADD_PRODUCTS(b[r], q, v);
                }
                panel += 4 * PANEL;
            }
            const __m512 step_a = _mm512_loadu_ps(steps + k), step_b = _mm512_loadu_ps(steps + k + 16);
            const __m512 add_a = _mm512_loadu_ps(offsets + k);
            const __m512 add_b = _mm512_loadu_ps(offsets + k + 16);
#pragma GCC unroll 12
            for (int r = 0; r < 12; r++) {
                const __m512 step = _mm512_set1_ps(x->step[row + r]);
                float *to = scores + (row + r) * stride + k;
                _mm512_storeu_ps(
                    to, _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(a[r]), step), step_a, add_a));
                _mm512_storeu_ps(to + 16, _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(b[r]), step),
                                                          step_b, add_b));
            }
        }
}

TARGET8 static float dot(const float *a, const float *b, long dim)
{
    __m512 one = _mm512_setzero_ps(), two = one;
    long d = 0;
    for (; d + 32 <= dim; d += 32) {
        one = _mm512_fmadd_ps(_mm512_loadu_ps(a + d), _mm512_loadu_ps(b + d), one);
        two = _mm512_fmadd_ps(_mm512_loadu_ps(a + d + 16), _mm512_loadu_ps(b + d + 16), two);
    }
    for (; d < dim; d += 16) {
        const __mmask16 mask = d + 16 <= dim ? 0xFFFF : (1u << (dim - d)) - 1;
        one = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, a + d), _mm512_maskz_loadu_ps(mask, b + d),
                              one);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(one, two));
}

/* The codeword that is best by the definition, or -1 where too many could be. */
TARGET8 static long best_int8(const float *scores, const Rounded *rounded, long row,
                              const Books *books, long stage, const float *x)
{
    const long padded = books->padded, dim = books->dim;
    const float *reach = books->levels8 + (3 * stage + 2) * padded;
    const float *codebook = books->codebooks + stage * books->size * dim;
    /* A score can be off by `slope` times the codeword's reach and `constant`. */
    const float *bounds = books->bounds8 + 3 * stage;
    const float error = rounded->error[row], size = rounded->size[row];
    const float slope = 1.001f * (error + bounds[0] * size);
    const float constant = bounds[1] + bounds[2] * (error + size);
    if (!(slope < INFINITY))
        return -1;
    const __m512 spread = _mm512_set1_ps(slope);
    __m512 sure = _mm512_fnmadd_ps(spread, _mm512_loadu_ps(reach), _mm512_loadu_ps(scores));
    for (long k = 16; k < padded; k += 16)
        sure = _mm512_max_ps(sure, _mm512_fnmadd_ps(spread, _mm512_loadu_ps(reach + k),
                                                    _mm512_loadu_ps(scores + k)));
    const __m512 least = _mm512_set1_ps(_mm512_reduce_max_ps(sure) - 2 * constant);
    long rivals[MOST_RIVALS];
    int n = 0;
    for (long k = 0; k < padded; k += 16) {
        const __m512 most = _mm512_fmadd_ps(spread, _mm512_loadu_ps(reach + k),
                                            _mm512_loadu_ps(scores + k));
        unsigned mask = _mm512_cmp_ps_mask(most, least, _CMP_GE_OQ);
        for (; mask; mask &= mask - 1) {
            if (n == MOST_RIVALS)
                return -1;
            rivals[n++] = k + __builtin_ctz(mask);
        }
    }
    if (n < 2)
        return n ? rivals[0] : -1;
    float better[MOST_RIVALS], best = -INFINITY;
    for (int i = 0; i < n; i++) {
        better[i] = dot(x, codebook + rivals[i] * dim, dim) + books->offsets[stage * padded + rivals[i]];
        best = better[i] > best ? better[i] : best;
    }
    const float threshold = best - error_margin(books, stage, x);
    int n_close = 0;
    for (int i = 0; i < n; i++)
        if (better[i] >= threshold)
            rivals[n_close++] = rivals[i];
    return exact_best(books, stage, x, rivals, n_close);
}
