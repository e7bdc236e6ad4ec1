/* The networks of the default family in C, for the instruction set found at run time.
 *
 * A network is loaded once. The interface to Python is at the end; `codec/engine.py` describes the
 * arguments.
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
#include "weights.h"

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
    Memory memory;
} Network;

typedef struct {
    long rows; /* that the buffers hold */
    float *x, *narrow, *wide, *seen, *spectrum;
} Work;

#define LAYERS "layers.h"
#include "sets.h"

typedef void (*Pass)(const Network *, const float *, long, float *, float *, float *, Work *);
static const Pass ENCODE[] = EACH_SET(encode), DECODE[] = EACH_SET(decode);

/* -- loading -------------------------------------------------------------------------------- */

static void discard(Network *net)
{
    release(&net->memory);
    free(net->blocks);
    free(net);
}

static int take_norm(Network *net, Source *source, Norm *norm)
{
    Memory *memory = &net->memory;
    return take_rows(memory, source, 1, net->width, net->width_padded, &norm->weight) &&
           take_rows(memory, source, 1, net->width, net->width_padded, &norm->bias);
}

static int take_all(Network *net, Source *source)
{
    Memory *memory = &net->memory;
    const long hop = net->hop, width = net->width, padded = net->width_padded;
    const long features = net->decoder ? (1 + net->lookahead) * net->dim : 3 * hop;
    int good = take_rows(memory, source, 1, 2 * hop, 2 * hop, &net->window) &&
               take_matrix(memory, source, hop, hop, 0, &net->cosine) &&
               (net->decoder || take_matrix(memory, source, hop, hop, 0, &net->sine)) &&
               take_matrix(memory, source, net->decoder ? net->dim : hop,
                           net->decoder ? hop : net->dim, 0, &net->linear) &&
               take_matrix(memory, source, features, width, 1, &net->embed) &&
               take_norm(net, source, &net->norm);
    for (long i = 0; good && i < net->n_blocks; i++) {
        Block *block = net->blocks + i;
        good = take_rows(memory, source, net->taps, width, padded, &block->depthwise) &&
               take_rows(memory, source, 1, width, padded, &block->depthwise_bias) &&
               take_norm(net, source, &block->norm) &&
               take_matrix(memory, source, width, net->hidden, 1, &block->expand) &&
               take_matrix(memory, source, net->hidden, width, 1, &block->contract) &&
               take_rows(memory, source, 1, width, padded, &block->scale);
    }
    return good && take_norm(net, source, &net->final_norm) &&
           take_matrix(memory, source, width, net->decoder ? 2 * hop : net->dim, 1, &net->out);
}

/* -- the interface to Python ---------------------------------------------------------------- */

#define NETWORK "rvq.codec network"

static void forget(PyObject *capsule)
{
    discard(PyCapsule_GetPointer(capsule, NETWORK));
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
    net->memory.half = SETS[net->kernel].half;
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
    discard(net);
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
                const Pass pass = (net->decoder ? DECODE : ENCODE)[net->kernel];
                Py_BEGIN_ALLOW_THREADS
                pass(net, input.buf, n, samples.buf, state.buf, output.buf, &work);
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
