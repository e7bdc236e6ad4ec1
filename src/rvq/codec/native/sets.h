/* The instruction sets that networks run on: includes `product.h`, and by it LAYERS, for each.
 *
 * EACH_SET(f) lists what a function is called in each, in the order of SETS, fastest first.
 */
#if defined(__x86_64__)
#include <immintrin.h>

typedef int32_t Int8 __attribute__((vector_size(32)));
#define FN(name) name##_avx2
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define VEC __m256
#define INT Int8
#define LANES 8
#define ROWS 6
#define LOAD(p) _mm256_loadu_ps(p)
#define LOAD_HALF(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define SET1(s) _mm256_set1_ps(s)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define LEAST(a, b) _mm256_min_ps(a, b)
#define MOST(a, b) _mm256_max_ps(a, b)
#define TO_FLOAT(i) _mm256_cvtepi32_ps((__m256i)(i))
#include "product.h"

typedef int32_t Int16 __attribute__((vector_size(64)));
#define ONE product_of_one_avx2 /* which widens weights faster; the results are the same */
#define FN(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define VEC __m512
#define INT Int16
#define LANES 16
#define ROWS 12
#define LOAD(p) _mm512_loadu_ps(p)
#define LOAD_HALF(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define SET1(s) _mm512_set1_ps(s)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define LEAST(a, b) _mm512_min_ps(a, b)
#define MOST(a, b) _mm512_max_ps(a, b)
#define TO_FLOAT(i) _mm512_cvtepi32_ps((__m512i)(i))
#include "product.h"
#endif

/* Any other processor: vectors of four, which compilers map to what there is. */
typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
static inline Float4 load4(const float *p)
{
    Float4 v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline Float4 fma4(Float4 a, Float4 b, Float4 c)
{
    for (int i = 0; i < 4; i++)
        c[i] = fmaf(a[i], b[i], c[i]); /* one rounding, as elsewhere */
    return c;
}
static inline Float4 least4(Float4 a, Float4 b)
{
    for (int i = 0; i < 4; i++)
        a[i] = a[i] < b[i] ? a[i] : b[i];
    return a;
}
static inline Float4 most4(Float4 a, Float4 b)
{
    for (int i = 0; i < 4; i++)
        a[i] = a[i] > b[i] ? a[i] : b[i];
    return a;
}
#define FN(name) name##_portable
#define TARGET
#define VEC Float4
#define INT Int4
#define LANES 4
#define ROWS 4
#define LOAD(p) load4(p)
#define LOAD_HALF(p) load4((const float *)(const void *)(p)) /* matrices stay float32, see `load` */
#define SET1(s) ((Float4){s, s, s, s})
#define FMA(a, b, c) fma4(a, b, c)
#define LEAST(a, b) least4(a, b)
#define MOST(a, b) most4(a, b)
#define TO_FLOAT(i) __builtin_convertvector(i, Float4)
#include "product.h"

static const struct {
    const char *name;
    int half; /* whether it reads float16 fast */
} SETS[] = {
#if defined(__x86_64__)
    {"avx512", 1},
    {"avx2", 1},
#define EACH_SET(f) {f##_avx512, f##_avx2, f##_portable}
#else
#define EACH_SET(f) {f##_portable}
#endif
    {"portable", 0},
};
#define N_SETS ((int)(sizeof SETS / sizeof *SETS))

static int supported(int i)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (i == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (i == 1)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return i >= 0 && i < N_SETS;
}

static PyObject *kernels(PyObject *self, PyObject *none)
{
    (void)self, (void)none;
    PyObject *names = PyList_New(0);
    for (int i = 0; names && i < N_SETS; i++)
        if (supported(i)) {
            PyObject *entry = Py_BuildValue("(si)", SETS[i].name, i);
            if (!entry || PyList_Append(names, entry) < 0)
                Py_CLEAR(names);
            Py_XDECREF(entry);
        }
    return names;
}
