/* The networks of the default family in C, for the instruction set found at run time.
 *
 * A network is loaded once: its matrices are packed into panels, as half precision where that loses
 * nothing, because one frame at a time the time to read them is what counts. The interface to Python
 * is at the end; `codec/engine.py` describes the arguments.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#define BLOCK 48 /* frames at a time, so that they stay in the cache; a multiple of every ROWS */
#define PANEL 32 /* columns side by side in packed matrices; a multiple of every 2 * LANES */
#define ROUND_UP(n) (((n) + PANEL - 1) / PANEL * PANEL)
#define HUGE_PAGE (2L << 20)
#define PIECE (2 * HUGE_PAGE)
#define MOST_PIECES 256

typedef struct {
    long k, padded;     /* inputs; outputs rounded up to whole panels */
    int half;           /* whether the panels hold float16 */
    const void *panels; /* [padded / PANEL][k][PANEL] */
    const float *bias;  /* [padded] */
} Matrix;

typedef struct {
    const float *weight, *bias; /* [width_padded] */
} Norm;

typedef struct {
    const float *depthwise, *depthwise_bias; /* [taps][width_padded], [width_padded] */
    Norm norm;
    Matrix expand, contract;
    const float *scale; /* [width_padded] */
} Block;

typedef struct {
    long hop, dim, width, hidden, taps, n_blocks, lookahead;
    long width_padded, hidden_padded, state_size;
    int kernel, decoder;
    float power;         /* of the companding: (exponent - 1) / 2 */
    const float *window; /* [2 * hop] */
    Matrix cosine, sine; /* DCT-IV and DST-IV; the decoder has no use for the second */
    Matrix linear, embed, out;
    Norm norm, final_norm;
    Block *blocks;
    void *memory[MOST_PIECES]; /* all that was allocated */
    int n_memory;
    char *free; /* in the last of them */
    size_t left;
} Network;

typedef struct {
    long rows; /* that the buffers hold */
    float *x, *narrow, *wide, *seen, *spectrum;
} Work;

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
#include "layers.h"

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
#include "layers.h"
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
#include "layers.h"

typedef struct {
    const char *name;
    int half;
    void (*encode)(const Network *, const float *, long, float *, float *, float *, Work *);
    void (*decode)(const Network *, const float *, long, float *, float *, float *, Work *);
} Kernel;

static const Kernel KERNELS[] = {
#if defined(__x86_64__)
    {"avx512", 1, encode_avx512, decode_avx512},
    {"avx2", 1, encode_avx2, decode_avx2},
#endif
    {"portable", 0, encode_portable, decode_portable},
};
#define N_KERNELS ((int)(sizeof KERNELS / sizeof *KERNELS))

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
    return i >= 0 && i < N_KERNELS;
}

/* -- loading -------------------------------------------------------------------------------- */

static void release(Network *net)
{
    for (int i = 0; i < net->n_memory; i++)
        free(net->memory[i]);
    free(net->blocks);
    free(net);
}

/* Zeros that live as long as the network, at the start of a cache line. Cut from large pieces that
 * may lie in huge pages, because one frame reads all weights once. */
static void *allocate(Network *net, size_t size)
{
    const size_t needed = (size + 63) / 64 * 64 + 64, piece = needed > PIECE ? needed : PIECE;
    if (needed > net->left) {
        void *memory = NULL;
        if (net->n_memory == MOST_PIECES || posix_memalign(&memory, HUGE_PAGE, piece))
            return PyErr_NoMemory();
#ifdef MADV_HUGEPAGE
        madvise(memory, piece, MADV_HUGEPAGE);
#endif
        memset(memory, 0, piece);
        net->memory[net->n_memory++] = net->free = memory;
        net->left = piece;
    }
    void *found = net->free;
    net->free += needed;
    net->left -= needed;
    return found;
}

/* Float16 of a number that is one; -1 for any other. */
static long as_half(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
    if (size >= 0x38800000 && size < 0x47800000) /* normal */
        return size & 0x1FFF ? -1 : (long)(sign | ((size - 0x38000000) >> 13));
    const float steps = fabsf(x) * 16777216.0f;
    if (!(steps < 1024) || steps != floorf(steps))
        return -1;
    return (long)(sign | (uint32_t)steps);
}

typedef struct {
    PyObject *tensors;
    Py_ssize_t next;
} Source;

/* The next tensor, of so many floats; NULL with an exception set if it is not. */
static int take(Source *source, long n, Py_buffer *buffer)
{
    PyObject *tensor = PyTuple_GetItem(source->tensors, source->next++);
    if (!tensor || PyObject_GetBuffer(tensor, buffer, PyBUF_SIMPLE) < 0)
        return 0;
    if (buffer->len == n * 4)
        return 1;
    PyErr_Format(PyExc_ValueError, "tensor %zd holds %zd bytes, not %ld", source->next - 1,
                 buffer->len, n * 4);
    PyBuffer_Release(buffer);
    return 0;
}

/* Rows of floats, each padded with zeros. */
static int take_rows(Network *net, Source *source, long rows, long n, long padded, const float **out)
{
    Py_buffer buffer;
    if (!take(source, rows * n, &buffer))
        return 0;
    float *to = allocate(net, rows * padded * sizeof *to);
    for (long row = 0; to && row < rows; row++)
        memcpy(to + row * padded, (const float *)buffer.buf + row * n, n * sizeof *to);
    PyBuffer_Release(&buffer);
    *out = to;
    return to != NULL;
}

/* A matrix `[n][k]` as torch keeps it, then its bias if it has one. */
static int take_matrix(Network *net, Source *source, long k, long n, int biased, Matrix *m)
{
    Py_buffer buffer;
    if (!take(source, n * k, &buffer))
        return 0;
    const float *from = buffer.buf;
    m->k = k;
    m->padded = ROUND_UP(n);
    m->half = KERNELS[net->kernel].half;
    for (long i = 0; m->half && i < n * k; i++)
        m->half = as_half(from[i]) >= 0;
    void *panels = allocate(net, m->padded * k * (m->half ? 2 : 4));
    for (long row = 0; panels && row < n; row++)
        for (long d = 0; d < k; d++) {
            const long at = (row / PANEL * k + d) * PANEL + row % PANEL;
            if (m->half)
                ((uint16_t *)panels)[at] = (uint16_t)as_half(from[row * k + d]);
            else
                ((float *)panels)[at] = from[row * k + d];
        }
    PyBuffer_Release(&buffer);
    m->panels = panels;
    if (!panels)
        return 0;
    if (biased)
        return take_rows(net, source, 1, n, m->padded, &m->bias);
    m->bias = allocate(net, m->padded * sizeof *m->bias);
    return m->bias != NULL;
}

static int take_norm(Network *net, Source *source, Norm *norm)
{
    return take_rows(net, source, 1, net->width, net->width_padded, &norm->weight) &&
           take_rows(net, source, 1, net->width, net->width_padded, &norm->bias);
}

static int take_all(Network *net, Source *source)
{
    const long hop = net->hop, width = net->width, padded = net->width_padded;
    const long features = net->decoder ? (1 + net->lookahead) * net->dim : 3 * hop;
    int good = take_rows(net, source, 1, 2 * hop, 2 * hop, &net->window) &&
               take_matrix(net, source, hop, hop, 0, &net->cosine) &&
               (net->decoder || take_matrix(net, source, hop, hop, 0, &net->sine)) &&
               take_matrix(net, source, net->decoder ? net->dim : hop,
                           net->decoder ? hop : net->dim, 0, &net->linear) &&
               take_matrix(net, source, features, width, 1, &net->embed) &&
               take_norm(net, source, &net->norm);
    for (long i = 0; good && i < net->n_blocks; i++) {
        Block *block = net->blocks + i;
        good = take_rows(net, source, net->taps, width, padded, &block->depthwise) &&
               take_rows(net, source, 1, width, padded, &block->depthwise_bias) &&
               take_norm(net, source, &block->norm) &&
               take_matrix(net, source, width, net->hidden, 1, &block->expand) &&
               take_matrix(net, source, net->hidden, width, 1, &block->contract) &&
               take_rows(net, source, 1, width, padded, &block->scale);
    }
    return good && take_norm(net, source, &net->final_norm) &&
           take_matrix(net, source, width, net->decoder ? 2 * hop : net->dim, 1, &net->out);
}

/* -- the interface to Python ---------------------------------------------------------------- */

#define NETWORK "rvq.codec network"

static PyObject *kernels(PyObject *self, PyObject *none)
{
    (void)self, (void)none;
    PyObject *names = PyList_New(0);
    for (int i = 0; names && i < N_KERNELS; i++)
        if (supported(i)) {
            PyObject *entry = Py_BuildValue("(si)", KERNELS[i].name, i);
            if (!entry || PyList_Append(names, entry) < 0)
                Py_CLEAR(names);
            Py_XDECREF(entry);
        }
    return names;
}

static void forget(PyObject *capsule)
{
    release(PyCapsule_GetPointer(capsule, NETWORK));
}

static PyObject *load(PyObject *self, PyObject *args)
{
    (void)self;
    Source source = {NULL, 0};
    Network *net = calloc(1, sizeof *net);
    if (!net)
        return PyErr_NoMemory();
    if (!PyArg_ParseTuple(args, "ii(lllllll)fO!", &net->kernel, &net->decoder, &net->hop, &net->dim,
                          &net->width, &net->hidden, &net->taps, &net->n_blocks, &net->lookahead,
                          &net->power, &PyTuple_Type, &source.tensors))
        goto failed;
    const long most = 1 << 16;
    if (!supported(net->kernel) || net->hop < PANEL || net->hop % PANEL || net->hop > most ||
        net->dim < 1 || net->dim > most || net->width < 1 || net->width > most || net->hidden < 1 ||
        net->hidden > most || net->taps < 1 || net->taps > 1024 || net->n_blocks < 0 ||
        net->n_blocks > 64 || net->lookahead < 0 || net->lookahead > 64) {
        PyErr_SetString(PyExc_ValueError, "a network of this shape is not for these kernels");
        goto failed;
    }
    net->width_padded = ROUND_UP(net->width);
    net->hidden_padded = ROUND_UP(net->hidden);
    net->state_size = net->n_blocks * (net->taps - 1) * net->width;
    net->blocks = calloc(net->n_blocks + 1, sizeof *net->blocks);
    if (!net->blocks) {
        PyErr_NoMemory();
        goto failed;
    }
    if (!take_all(net, &source))
        goto failed;
    PyObject *capsule = PyCapsule_New(net, NETWORK, forget);
    if (capsule)
        return capsule;
failed:
    release(net);
    return NULL;
}

static long most(long a, long b)
{
    return a > b ? a : b;
}

/* `run(network, n_frames, input, samples, state, output)`; what is remembered changes in place. */
static PyObject *run(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *capsule, *result = NULL;
    Py_buffer input, samples, state, output;
    long n;
    if (!PyArg_ParseTuple(args, "Oly*w*w*w*", &capsule, &n, &input, &samples, &state, &output))
        return NULL;
    const Network *net = PyCapsule_GetPointer(capsule, NETWORK);
    float *memory = NULL;
    if (net) {
        const long audio = n * net->hop * 4, latents = n * net->dim * 4;
        const long heard = latents + net->lookahead * net->dim * 4;
        if (n < 1 || input.len != (net->decoder ? heard : audio) ||
            output.len != (net->decoder ? audio : latents) || samples.len != net->hop * 4 ||
            state.len != net->state_size * 4)
            PyErr_SetString(PyExc_ValueError, "a buffer has another size than the network says");
        else {
            const long tiles = (n + 11) / 12 * 12, rows = n == 1 ? 1 : tiles < BLOCK ? tiles : BLOCK;
            const long spectrum = 2 * net->hop, wide = most(3 * net->hop, net->hidden_padded);
            const long narrow = most(net->width_padded, most(net->hop, ROUND_UP(net->dim)));
            const long near = (1 + net->lookahead) * net->dim;
            const long sizes[] = {rows * net->width_padded, rows * narrow,
                                  rows * most(wide, near) + near,
                                  (rows + net->taps) * net->width_padded, rows * spectrum};
            long total = 0;
            for (int i = 0; i < 5; i++)
                total += sizes[i];
            memory = calloc(total + 16, sizeof *memory);
            if (!memory)
                PyErr_NoMemory();
            else {
                float *at = memory;
                Work work = {.rows = rows};
                float **parts[] = {&work.x, &work.narrow, &work.wide, &work.seen, &work.spectrum};
                for (int i = 0; i < 5; i++) {
                    *parts[i] = at;
                    at += sizes[i];
                }
                const Kernel *kernel = KERNELS + net->kernel;
                Py_BEGIN_ALLOW_THREADS
                (net->decoder ? kernel->decode : kernel->encode)(net, input.buf, n, samples.buf,
                                                                 state.buf, output.buf, &work);
                Py_END_ALLOW_THREADS
                free(memory);
                result = Py_NewRef(Py_None);
            }
        }
    }
    PyBuffer_Release(&input);
    PyBuffer_Release(&samples);
    PyBuffer_Release(&state);
    PyBuffer_Release(&output);
    return result;
}

static PyMethodDef METHODS[] = {
    {"kernels", kernels, METH_NOARGS, "Names and numbers of what runs here, fastest first."},
    {"load", load, METH_VARARGS, "A network ready to run."},
    {"run", run, METH_VARARGS, "Encode or decode frames of one channel."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_spectral", NULL, -1, METHODS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__spectral(void)
{
    return PyModule_Create(&MODULE);
}
