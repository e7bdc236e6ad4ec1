/* What `tiles.h` is told for AVX-512, and forgets behind itself. */
#define VEC __m512
#define LANES 16
#define ROWS 12
#define LOAD(p) _mm512_loadu_ps(p)
#define LOAD_HALF(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define STORE_HALF(p, v) _mm256_storeu_si256((__m256i *)(p), _mm512_cvtps_ph(v, NEAREST))
#define SET1(s) _mm512_set1_ps(s)
#define ADD(a, b) _mm512_add_ps(a, b)
#define MAX(a, b) _mm512_max_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define AT_LEAST(a, b) _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ)
