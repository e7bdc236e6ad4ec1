/* Scores from products of bfloat16 numbers, neighbouring components in pairs. */
#define TARGET16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")))

/* Vectors as bfloat16, `[CHUNK][pairs][2]`, zero behind their components. */
TARGET16 static void narrow_rows(const float *x, long rows, const Books *books, uint16_t *narrow)
{
    const long dim = books->dim, width = 2 * books->pairs;
    for (long row = 0; row < rows; row++)
        for (long d = 0; d < width; d += 16) {
            const __m512 part = _mm512_maskz_loadu_ps(first_of(dim - d), x + row * dim + d);
            _mm256_mask_storeu_epi16(narrow + row * width + d, first_of(width - d),
                                     (__m256i)_mm512_cvtneps_pbh(part));
        }
}

/* What _mm512_dpbf16_ps does; see `ADD_PRODUCTS`. */
#define ADD_PAIRS(sum, a, b) __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b))

TARGET16 static void scores_bf16(const float *x, long rows, const Books *books, long stage,
                                 float *scores, long stride)
{
    const long pairs = books->pairs;
    const uint16_t *packed = books->packed16 + stage * books->padded * pairs * 2;
    const float *offsets = books->offsets + stage * books->padded;
    uint16_t *narrow = (uint16_t *)(scores + CHUNK * stride);
    narrow_rows(x, rows, books, narrow);
    for (long k = 0; k < books->padded; k += PANEL)
        for (long row = 0; row < rows; row += 12) {
            __m512 a[12], b[12];
#pragma GCC unroll 12
            for (int r = 0; r < 12; r++) {
                a[r] = _mm512_loadu_ps(offsets + k);
                b[r] = _mm512_loadu_ps(offsets + k + 16);
            }
            const uint16_t *panel = packed + k * pairs * 2;
            for (long d = 0; d < pairs; d++) {
                const __m512i p = _mm512_loadu_si512(panel), q = _mm512_loadu_si512(panel + 32);
#pragma GCC unroll 12
                for (int r = 0; r < 12; r++) {
                    int32_t pair;
                    memcpy(&pair, narrow + 2 * ((row + r) * pairs + d), sizeof pair);
                    const __m512i v = _mm512_set1_epi32(pair);
                    ADD_PAIRS(a[r], v, p);
                    ADD_PAIRS(b[r], v, q);
                }
                panel += 2 * PANEL;
            }
#pragma GCC unroll 12
            for (int r = 0; r < 12; r++) {
                _mm512_storeu_ps(scores + (row + r) * stride + k, a[r]);
                _mm512_storeu_ps(scores + (row + r) * stride + k + 16, b[r]);
            }
        }
}
