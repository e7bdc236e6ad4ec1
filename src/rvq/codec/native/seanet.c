/* SEANets in C, for the instruction set found at run time: layers that pass steps between a few
 * buffers, a block of frames at a time. The interface to Python is at the end; `codec/seanet.py`
 * describes the arguments.
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

#define BLOCK 24 /* frames at a time, so that they stay in the cache; a multiple of every ROWS */
#define SLACK 12 /* rows that a product may read and write beyond its last one */
#define N_BUFFERS 3
#define MOST_LAYERS 256
#define MOST_RECURRENT 8
#include "weights.h"

enum { ZEROS, REFLECT, REPLICATE };

/* Of a transposed convolution the matrix has the columns of `up` steps, and so it has where a
 * convolution of few channels makes `up` steps at once to fill a panel. */
typedef struct {
    int from, to, elu, add, padding; /* `add` to what is there */
    long inputs, kernel, stride, up;
    Matrix matrix; /* [up * outputs][kernel * inputs] */
} Convolution;

typedef struct {
    int at;
    long width, n_layers;
    Matrix heard[MOST_RECURRENT], recalled[MOST_RECURRENT]; /* of the step, of the one before */
} Recurrence;

typedef struct {
    int recurrent;
    Convolution convolution;
    Recurrence recurrence;
} Layer;

typedef struct {
    int set;
    long hop; /* steps of the input in a frame */
    long inputs, outputs, n_layers, state_size;
    Layer *layers;
    Memory memory;
} Network;

typedef struct {
    float *buffers[N_BUFFERS], *seen, *gates;
} Work;

/* Put what came before `n` new steps ahead of them, keep the last ones for the next call, and
 * append what completes the last stride. */
static void fill_context(const Convolution *l, int started, float *past, float *seen, long n)
{
    const long inputs = l->inputs, context = l->kernel - l->stride, total = context + n;
    const long missing = l->up == l->stride ? 0 : (l->stride - n % l->stride) % l->stride;
    for (long t = 0; t < context; t++)
        for (long c = 0; c < inputs; c++) {
            float value = past[c * context + t]; /* zeros at the start */
            if (!started && l->padding == REFLECT)
                value = context - t < n ? seen[(2 * context - t) * inputs + c] : 0;
            else if (!started && l->padding == REPLICATE)
                value = seen[context * inputs + c];
            seen[t * inputs + c] = value;
        }
    for (long t = 0; t < context; t++)
        for (long c = 0; c < inputs; c++)
            past[c * context + t] = seen[(n + t) * inputs + c];
    for (long t = 0; t < missing; t++) {
        float *to = seen + (total + t) * inputs;
        if (l->padding == REFLECT && (started || context < n))
            memcpy(to, seen + (total - 2 - t) * inputs, inputs * sizeof *to);
        else if (l->padding == REPLICATE)
            memcpy(to, seen + (total - 1) * inputs, inputs * sizeof *to);
        else
            memset(to, 0, inputs * sizeof *to);
    }
}

#define LAYERS "convolutions.h"
#include "sets.h"

typedef const float *(*Pass)(const Network *, long, float *, Work *, long *);
static const Pass PASS[] = EACH_SET(pass);

/* -- loading -------------------------------------------------------------------------------- */

static void discard(Network *net)
{
    release(&net->memory);
    free(net->layers);
    free(net);
}

static int within(long value, long least, long most)
{
    return value >= least && value <= most;
}

static int take_convolution(Network *net, PyObject *fields, Source *source, Convolution *l)
{
    const long most = 1 << 14;
    long outputs;
    if (!PyArg_ParseTuple(fields, "iiiiilllll", &l->from, &l->to, &l->elu, &l->add, &l->padding,
                          &l->inputs, &outputs, &l->kernel, &l->stride, &l->up))
        return 0;
    if (!within(l->from, 0, N_BUFFERS - 1) || !within(l->to, 0, N_BUFFERS - 1) || l->from == l->to ||
        !within(l->padding, ZEROS, REPLICATE) || !within(l->inputs, 1, most) ||
        !within(outputs, 1, most) || !within(l->stride, 1, most) || !within(l->up, 1, most) ||
        !within(l->kernel, l->stride, most) || l->up * outputs % PANEL || l->up * outputs > most) {
        PyErr_SetString(PyExc_ValueError, "a convolution of this shape is not for these kernels");
        return 0;
    }
    net->state_size += l->inputs * (l->kernel - l->stride);
    net->outputs = outputs;
    return take_matrix(&net->memory, source, l->kernel * l->inputs, l->up * outputs, 1, &l->matrix);
}

static int take_recurrence(Network *net, PyObject *fields, Source *source, Recurrence *l)
{
    if (!PyArg_ParseTuple(fields, "ill", &l->at, &l->width, &l->n_layers))
        return 0;
    if (!within(l->at, 0, N_BUFFERS - 1) || !within(l->width, PANEL, 4096) || l->width % PANEL ||
        !within(l->n_layers, 1, MOST_RECURRENT)) {
        PyErr_SetString(PyExc_ValueError, "an LSTM of this shape is not for these kernels");
        return 0;
    }
    net->state_size += 2 * l->n_layers * l->width;
    net->outputs = l->width;
    int good = 1;
    for (long i = 0; good && i < l->n_layers; i++)
        good = take_matrix(&net->memory, source, l->width, 4 * l->width, 1, l->heard + i) &&
               take_matrix(&net->memory, source, l->width, 4 * l->width, 0, l->recalled + i);
    return good;
}

/* -- the interface to Python ---------------------------------------------------------------- */

#define NETWORK "rvq.codec SEANet"

static void forget(PyObject *capsule)
{
    discard(PyCapsule_GetPointer(capsule, NETWORK));
}

/* `load(set, hop, inputs, layers, tensors)`; an LSTM has three fields, a convolution ten. */
static PyObject *load(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *layers;
    Source source = {NULL, 0};
    Network *net = calloc(1, sizeof *net);
    if (!net)
        return PyErr_NoMemory();
    if (!PyArg_ParseTuple(args, "illO!O!", &net->set, &net->hop, &net->inputs, &PyTuple_Type, &layers,
                          &PyTuple_Type, &source.tensors))
        goto failed;
    net->n_layers = (long)PyTuple_Size(layers);
    if (!supported(net->set) || !within(net->hop, 1, 1 << 14) || !within(net->inputs, 1, 1 << 14) ||
        !within(net->n_layers, 1, MOST_LAYERS)) {
        PyErr_SetString(PyExc_ValueError, "a network of this shape is not for these kernels");
        goto failed;
    }
    net->layers = calloc(net->n_layers, sizeof *net->layers);
    if (!net->layers) {
        PyErr_NoMemory();
        goto failed;
    }
    net->memory.half = SETS[net->set].half;
    net->state_size = 1;
    for (long i = 0; i < net->n_layers; i++) {
        Layer *layer = net->layers + i;
        PyObject *fields = PyTuple_GetItem(layers, i);
        layer->recurrent = fields && PyTuple_Size(fields) == 3;
        if (!fields || !(layer->recurrent
                             ? take_recurrence(net, fields, &source, &layer->recurrence)
                             : take_convolution(net, fields, &source, &layer->convolution)))
            goto failed;
    }
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

/* What comes out of `n` steps; `buffer` and `gates` say how many floats they need. */
static long measure(const Network *net, long n, long *buffer, long *gates)
{
    long steps[N_BUFFERS] = {n, 0, 0}, made = 0;
    *buffer = n * net->inputs;
    *gates = 0;
    for (long i = 0; i < net->n_layers; i++) {
        if (net->layers[i].recurrent) {
            const Recurrence *l = &net->layers[i].recurrence;
            made = steps[l->at];
            *buffer = most(*buffer, (made + SLACK) * l->width);
            *gates = most(*gates, (made + SLACK) * 4 * l->width);
        } else {
            const Convolution *l = &net->layers[i].convolution;
            const long rows = (steps[l->from] + l->stride - 1) / l->stride;
            const long read = ((rows + SLACK) * l->stride + l->kernel) * l->inputs;
            *buffer = most(*buffer, most(read, (rows + SLACK) * l->matrix.padded));
            made = steps[l->to] = l->up == l->stride ? steps[l->from] : rows * l->up;
        }
    }
    *buffer += 64; /* vectors end beyond the last step */
    return made;
}

/* `run(network, n, input, state, output)` on `n` steps of one channel; the state changes in place. */
static PyObject *run(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *capsule, *result = NULL;
    Py_buffer input, state, output;
    long n;
    if (!PyArg_ParseTuple(args, "Oly*w*w*", &capsule, &n, &input, &state, &output))
        return NULL;
    const Network *net = PyCapsule_GetPointer(capsule, NETWORK);
    if (net) {
        const long block = BLOCK * net->hop, first = n < block ? n : block;
        long buffer, gates, made = 0;
        for (long start = 0; start < n; start += block)
            made += measure(net, n - start < block ? n - start : block, &buffer, &gates);
        measure(net, first, &buffer, &gates);
        float *memory = NULL;
        if (n < 1 || input.len != n * net->inputs * 4 || state.len != net->state_size * 4 ||
            output.len != made * net->outputs * 4)
            PyErr_SetString(PyExc_ValueError, "a buffer has another size than the network says");
        else if (!(memory = calloc((N_BUFFERS + 1) * buffer + gates, sizeof *memory)))
            PyErr_NoMemory();
        else {
            Work work = {.seen = memory + N_BUFFERS * buffer,
                         .gates = memory + (N_BUFFERS + 1) * buffer};
            for (int i = 0; i < N_BUFFERS; i++)
                work.buffers[i] = memory + i * buffer;
            float *to = output.buf, *remembered = state.buf;
            const float *from = input.buf;
            Py_BEGIN_ALLOW_THREADS
            for (long start = 0; start < n; start += block) {
                const long rows = n - start < block ? n - start : block;
                memcpy(work.buffers[0], from + start * net->inputs, rows * net->inputs * 4);
                const float *y = PASS[net->set](net, rows, remembered, &work, &made);
                memcpy(to, y, made * net->outputs * 4);
                to += made * net->outputs;
                remembered[0] = 1;
            }
            Py_END_ALLOW_THREADS
            free(memory);
            result = Py_NewRef(Py_None);
        }
    }
    PyBuffer_Release(&input);
    PyBuffer_Release(&state);
    PyBuffer_Release(&output);
    return result;
}

static PyMethodDef METHODS[] = {
    {"kernels", kernels, METH_NOARGS, "Names and numbers of what runs here, fastest first."},
    {"load", load, METH_VARARGS, "A network ready to run."},
    {"run", run, METH_VARARGS, "Encode or decode steps of one channel."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_seanet", NULL, -1, METHODS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__seanet(void)
{
    return PyModule_Create(&MODULE);
}
