/* Scores within known bounds from products of 8-bit numbers, many of which go at once.
 *
 * A vector x and a codeword c, both less the codebook's centre, are rounded to x^ and c^. By Cauchy
 * and Schwarz |x.c - x^.c^| <= |x - x^| |c| + |x^| |c - c^|, so only few codewords can have the best
 * score. Those are compared in float32, and in float64 where even that does not tell. How numbers are
 * rounded here decides the speed, never the result.
 */
#define TARGET8 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define MOST_RIVALS 32 /* codewords compared one by one; beyond, all are scored in float32 */

typedef struct {
    int8_t *bytes;      /* [CHUNK][4 * quads] */
    int32_t sum[CHUNK]; /* of a row's bytes */
    float step[CHUNK];  /* a byte of 1 stands for this */
    float size[CHUNK];  /* |x^| */
    float error[CHUNK]; /* |x - x^|; infinity for vectors too small or large for bounds */
} Rounded;

static inline __mmask16 first_of(long n) { return n >= 16 ? 0xFFFF : n > 0 ? (1u << n) - 1 : 0; }

/* Up to 64 components less the centre's; zero behind the last. */
TARGET8 static inline void centred(const float *x, const float *centre, long n, __m512 *parts)
{
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __mmask16 mask = first_of(n - 16 * i);
        parts[i] = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + 16 * i),
                                 _mm512_maskz_loadu_ps(mask, centre + 16 * i));
    }
}

TARGET8 static void round_rows(const float *x, long rows, const Books *books, long stage,
                               Rounded *to)
{
    const long dim = books->dim;
    const float *centre = books->centres + stage * dim;
    const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (long row = 0; row < rows; row++, x += dim) {
        __m512 parts[4], greatest = _mm512_setzero_ps();
        for (long d = 0; d < dim; d += 64) {
            centred(x + d, centre + d, dim - d, parts);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                greatest = _mm512_max_ps(greatest, _mm512_abs_ps(parts[i]));
        }
        const float most = _mm512_reduce_max_ps(greatest);
        const int usable = most == 0 || (most > 1e-30f && most < 1e15f);
        const __m512 scale = _mm512_set1_ps(usable && most > 0 ? 127 / most : 0);
        __m512 errors = _mm512_setzero_ps();
        __m512i sums = _mm512_setzero_si512(), squares = sums;
        int8_t *bytes = to->bytes + row * 4 * books->quads;
        for (long d = 0; d < dim; d += 64) {
            __m512i whole[4];
            centred(x + d, centre + d, dim - d, parts);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const __m512 part = _mm512_mul_ps(scale, parts[i]);
                whole[i] = _mm512_cvtps_epi32(part);
                const __m512 error = _mm512_sub_ps(part, _mm512_cvtepi32_ps(whole[i]));
                errors = _mm512_fmadd_ps(error, error, errors);
            }
            const __m512i low = _mm512_packs_epi32(whole[0], whole[1]);
            const __m512i high = _mm512_packs_epi32(whole[2], whole[3]);
            const __m512i all =
                _mm512_permutexvar_epi32(in_order, _mm512_packs_epi16(low, high));
            squares = _mm512_dpwssd_epi32(_mm512_dpwssd_epi32(squares, low, low), high, high);
            sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), all);
            const long left = 4 * books->quads - d;
            _mm512_mask_storeu_epi8(bytes + d, left < 64 ? (1ull << left) - 1 : ~0ull, all);
        }
        to->sum[row] = _mm512_reduce_add_epi32(sums);
        to->step[row] = usable ? most / 127 : 0;
        to->size[row] = to->step[row] * sqrtf((float)_mm512_reduce_add_epi32(squares));
        to->error[row] = usable ? to->step[row] * sqrtf(_mm512_reduce_add_ps(errors)) : INFINITY;
    }
}

/* What _mm512_dpbusd_epi32 does; with that, gcc 12 copies sums to and fro. */
#define ADD_PRODUCTS(sum, unsigned_bytes, signed_bytes)                                            \
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(signed_bytes))

/* Products of rounded vectors with codewords, which are unsigned bytes, 128 too large:
 * `[CHUNK][padded]`. */
TARGET8 static void multiply_vnni(const Rounded *x, long rows, const Books *books, long stage,
                                  int32_t *products)
{
    const long quads = books->quads, padded = books->padded;
    const uint8_t *packed = books->packed8 + stage * padded * quads * 4;
    for (long k = 0; k < padded; k += PANEL)
        for (long row = 0; row < rows; row += 12) {
            __m512i a[12], b[12];
#pragma GCC unroll 12
            for (int r = 0; r < 12; r++)
                a[r] = b[r] = _mm512_setzero_si512();
            const uint8_t *panel = packed + k * quads * 4;
            const int8_t *from = x->bytes + row * quads * 4;
            for (long q = 0; q < quads; q++) {
                const __m512i c = _mm512_loadu_si512(panel), d = _mm512_loadu_si512(panel + 64);
#pragma GCC unroll 12
                for (int r = 0; r < 12; r++) {
                    int32_t quad;
                    memcpy(&quad, from + 4 * (r * quads + q), sizeof quad);
                    const __m512i v = _mm512_set1_epi32(quad);
                    ADD_PRODUCTS(a[r], c, v);
                    ADD_PRODUCTS(b[r], d, v);
                }
                panel += 4 * PANEL;
            }
#pragma GCC unroll 12
            for (int r = 0; r < 12; r++) {
                _mm512_storeu_si512(products + (row + r) * padded + k, a[r]);
                _mm512_storeu_si512(products + (row + r) * padded + k + 16, b[r]);
            }
        }
}

/* Codewords that could be the best, in order of their index, of a row's products, which are lost; 0
 * where too many could be. */
TARGET8 static int rivals_of(int32_t *products, const Rounded *rounded, long row, const Books *books,
                             long stage, int32_t *rivals)
{
    const long padded = books->padded;
    const float *steps = books->levels8 + 3 * stage * padded;
    const float *offsets = steps + padded, *reach = offsets + padded;
    /* A score can be off by `slope` times the codeword's reach and `constant`. */
    const float *bounds = books->bounds8 + 3 * stage;
    const float error = rounded->error[row], size = rounded->size[row];
    const float slope = 1.001f * (error + bounds[0] * size);
    const float constant = bounds[1] + bounds[2] * (error + size);
    if (!(slope < INFINITY))
        return 0;
    const __m512 step = _mm512_set1_ps(rounded->step[row]), spread = _mm512_set1_ps(slope);
    const __m512i excess = _mm512_set1_epi32(128 * rounded->sum[row]);
    __m512 sure = _mm512_set1_ps(-INFINITY);
    for (long k = 0; k < padded; k += 16) {
        const __m512i product = _mm512_sub_epi32(_mm512_loadu_si512(products + k), excess);
        const __m512 score =
            _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(product), step),
                            _mm512_loadu_ps(steps + k), _mm512_loadu_ps(offsets + k));
        sure = _mm512_max_ps(sure, _mm512_fnmadd_ps(spread, _mm512_loadu_ps(reach + k), score));
        _mm512_storeu_ps(products + k, _mm512_fmadd_ps(spread, _mm512_loadu_ps(reach + k), score));
    }
    const __m512 least = _mm512_set1_ps(_mm512_reduce_max_ps(sure) - 2 * constant);
    int n = 0;
    for (long k = 0; k < padded; k += PANEL) {
        uint32_t mask = _mm512_cmp_ps_mask(_mm512_loadu_ps(products + k), least, _CMP_GE_OQ);
        mask |= (uint32_t)_mm512_cmp_ps_mask(_mm512_loadu_ps(products + k + 16), least, _CMP_GE_OQ)
                << 16;
        for (; mask; mask &= mask - 1) {
            if (n == MOST_RIVALS)
                return 0;
            rivals[n++] = (int32_t)k + __builtin_ctz(mask);
        }
    }
    for (int i = 0; i < n; i++) { /* they are read after the other rows' are known */
        const float *codeword = books->codebooks + (stage * books->size + rivals[i]) * books->dim;
        for (long d = 0; d < books->dim; d += 16)
            _mm_prefetch(codeword + d, _MM_HINT_T0);
    }
    return n;
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
        const __mmask16 mask = first_of(dim - d);
        one = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, a + d), _mm512_maskz_loadu_ps(mask, b + d),
                              one);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(one, two));
}

/* The rival that is best by the definition. */
TARGET8 static long best_rival(int32_t *rivals, int n, const Books *books, long stage, const float *x)
{
    if (n == 1)
        return rivals[0];
    const long dim = books->dim;
    const float *codebook = books->codebooks + stage * books->size * dim;
    const float *offsets = books->offsets + stage * books->padded;
    float scores[MOST_RIVALS], best = -INFINITY;
    for (int i = 0; i < n; i++) {
        scores[i] = dot(x, codebook + rivals[i] * dim, dim) + offsets[rivals[i]];
        best = scores[i] > best ? scores[i] : best;
    }
    const float threshold = best - error_margin(books, stage, sqrtf(dot(x, x, dim)));
    int n_close = 0;
    for (int i = 0; i < n; i++)
        if (scores[i] >= threshold)
            rivals[n_close++] = rivals[i];
    return exact_best(books, stage, x, rivals, n_close);
}
