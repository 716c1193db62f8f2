/* `inrcodec._kernels`: what Python sees of `arithmetic.c`. `native` says what goes in and out; without this module, which
 * needs a C compiler when the package is installed, NumPy and PyTorch compute the same.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdlib.h>
#include <string.h>

#include "decoder.h"

static const Arithmetic *own = &arithmetic; /* of this CPU */

/* Arrays are checked, then the interpreter is let go. */

enum { HELD = 3 * MOST, OWNED = 4 };
typedef struct {
    Py_buffer views[HELD];
    void *owned[OWNED];
    int count, owns, failed;
} Held;

/* `result`, or None without one, or NULL after a failure; whatever is held is let go. */
static PyObject *finished(Held *held, PyObject *result)
{
    for (int i = 0; i < held->count; i++)
        PyBuffer_Release(&held->views[i]);
    for (int i = 0; i < held->owns; i++)
        free(held->owned[i]);
    return held->failed || result ? result : Py_BuildValue("");
}

/* An array of these sizes, -1 for any, of floats, doubles, int64 or int32 ('f', 'd', 'l' or 'i'). Rows are without gaps; `packed`:
 * everything is. */
static Planes array_of(char kind, Held *held, PyObject *object, int writable, int packed, int dims, const Py_ssize_t *sizes)
{
    const Py_ssize_t item = kind == 'f' || kind == 'i' ? 4 : 8;
    Planes found = {0};
    if (held->failed)
        return found;
    held->failed = 1;
    if (held->count == HELD) {
        PyErr_SetString(PyExc_ValueError, "too many arrays");
        return found;
    }
    Py_buffer *view = &held->views[held->count];
    if (PyObject_GetBuffer(object, view, PyBUF_STRIDES | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0)))
        return found;
    held->count++;
    const char found_kind = view->format[0] == 'q' ? 'l' : view->format[0];
    if (found_kind != kind || view->format[1] || view->itemsize != item || view->ndim != dims) {
        PyErr_Format(PyExc_ValueError, "expected type %c of %d dimensions, found %s of %d", kind, dims, view->format, view->ndim);
        return found;
    }
    Py_ssize_t gapless = item;
    for (int i = dims - 1; i >= 0; i--) {
        found.shape[i] = view->shape[i];
        found.by[i] = view->strides[i] / item;
        if (sizes[i] >= 0 && view->shape[i] != sizes[i]) {
            PyErr_Format(PyExc_ValueError, "expected size %zd, found %zd", sizes[i], view->shape[i]);
            return found;
        }
        if (view->shape[i] > 1 && (i == dims - 1 || packed) && view->strides[i] != gapless) {
            PyErr_SetString(PyExc_ValueError, "expected an array without gaps");
            return found;
        }
        gapless *= view->shape[i];
    }
    found.at = view->buf;
    held->failed = 0;
    return found;
}

static Planes array(Held *held, PyObject *object, int writable, int packed, int dims, const Py_ssize_t *sizes)
{
    return array_of('f', held, object, writable, packed, dims, sizes);
}

#define SIZES(...) (int)(sizeof((Py_ssize_t[]){__VA_ARGS__}) / sizeof(Py_ssize_t)), (Py_ssize_t[]){__VA_ARGS__}
#define NUMBERS(kind, object, ...) array_of(kind, &held, object, 0, 1, SIZES(__VA_ARGS__)).at
#define READ(object, ...) array(&held, object, 0, 1, SIZES(__VA_ARGS__))
#define WRITE(object, ...) array(&held, object, 1, 1, SIZES(__VA_ARGS__))

/* Room for so many items, at most OWNED times, NULL after a failure. */
static void *memory(Held *held, Py_ssize_t count, size_t size)
{
    void *found = held->failed ? NULL : malloc((size_t)(count ? count : 1) * size);
    if (!found && !held->failed) {
        held->failed = 1;
        PyErr_NoMemory();
    }
    if (found)
        held->owned[held->owns++] = found;
    return found;
}

/* Matrices, and biases if there are any, of a tuple; `inner` rows go in, and the last layer sees `skipped` more. */
static Layers layers_of(Held *held, PyObject *tuple, int each, Py_ssize_t inner, Py_ssize_t skipped, Py_ssize_t *units)
{
    Layers found = {0};
    if (held->failed)
        return found;
    Py_ssize_t count = PyTuple_Size(tuple) / each;
    if (count < 2 || count > MOST + 1 || inner > MOST_UNITS || skipped > MOST_UNITS) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "too few layers, or too many");
        held->failed = 1;
        return found;
    }
    found.count = (int)count - 1;
    *units = 0;
    for (int i = 0; i < count && !held->failed; i++) {
        Planes matrix = array(held, PyTuple_GetItem(tuple, each * i), 0, 1, SIZES(-1, i < found.count ? inner : inner + skipped));
        found.at[i].matrix = matrix.at;
        found.at[i].rows = (int)matrix.shape[0];
        found.at[i].inner = (int)matrix.shape[1];
        if (each > 1)
            found.at[i].bias = array(held, PyTuple_GetItem(tuple, each * i + 1), 0, 1, SIZES(matrix.shape[0])).at;
        inner = matrix.shape[0];
        if (inner > MOST_UNITS && !held->failed) {
            PyErr_SetString(PyExc_ValueError, "a layer of more than 1024 units");
            held->failed = 1;
        }
        *units += i < found.count ? inner : 0;
    }
    return found;
}

static PyObject *siren(PyObject *module, PyObject *arguments)
{
    PyObject *x_object, *tuple, *values_object;
    if (!PyArg_ParseTuple(arguments, "OO!O", &x_object, &PyTuple_Type, &tuple, &values_object))
        return NULL;
    Held held = {0};
    Py_ssize_t units = 0;
    Planes x = READ(x_object, -1, -1);
    Layers layers = layers_of(&held, tuple, 2, x.shape[0], x.shape[0], &units);
    Planes values = WRITE(values_object, layers.at[layers.count].rows, x.shape[1]);
    float *scratch = memory(&held, units * LONGEST, sizeof(float));
    if (!held.failed) {
        Py_ssize_t n = x.shape[1];
        Py_BEGIN_ALLOW_THREADS
        own->siren(&layers, n, x.at, n, (float *)values.at, n, NULL, 0, scratch);
        Py_END_ALLOW_THREADS
    }
    return finished(&held, NULL);
}

static PyObject *convolve(PyObject *module, PyObject *arguments)
{
    PyObject *planes_object, *kernel_object, *bias_object, *out_object;
    int rectified, residual;
    if (!PyArg_ParseTuple(arguments, "OOOppO", &planes_object, &kernel_object, &bias_object, &rectified, &residual, &out_object))
        return NULL;
    Held held = {0};
    Planes planes = array(&held, planes_object, 0, 0, SIZES(-1, -1, -1));
    Planes matrix = READ(kernel_object, residual ? planes.shape[0] : -1, planes.shape[0], 3, 3);
    Py_ssize_t rows = matrix.shape[0], height = planes.shape[1] - 2, width = planes.shape[2] - 2;
    Planes out = array(&held, out_object, 1, 0, SIZES(rows, height > 0 ? height : 0, width > 0 ? width : 0));
    Kernel kernel = {matrix.at, .rectified = rectified, .residual = residual};
    if (!Py_IsNone(bias_object))
        kernel.bias = READ(bias_object, rows).at;
    Row *list = memory(&held, 9 * planes.shape[0], sizeof(Row));
    if (!held.failed) {
        Py_BEGIN_ALLOW_THREADS
        own->convolved(&kernel, &planes, &out, list);
        Py_END_ALLOW_THREADS
    }
    return finished(&held, NULL);
}

/* Where samples are among so many cells of an axis: cells (N, NEAR) and weights. */
static Axis axis_of(Held *held, PyObject *tuple, Py_ssize_t most)
{
    Axis found = {0};
    if (!held->failed && PyTuple_Size(tuple) != 2) {
        PyErr_SetString(PyExc_ValueError, "expected 2 arrays");
        held->failed = 1;
    }
    if (held->failed)
        return found;
    const Planes cells = array_of('i', held, PyTuple_GetItem(tuple, 0), 0, 1, SIZES(-1, NEAR));
    found.count = cells.shape[0];
    found.cells = cells.at;
    found.weights = array(held, PyTuple_GetItem(tuple, 1), 0, 1, SIZES(found.count, NEAR)).at;
    for (Py_ssize_t i = 0; !held->failed && i < NEAR * found.count; i++)
        if (found.cells[i] < 0 || found.cells[i] >= most) {
            PyErr_SetString(PyExc_ValueError, "a sample outside of the cells");
            held->failed = 1;
        }
    return found;
}

/* interpolate and interpolate_back */
static PyObject *between(PyObject *arguments, int back)
{
    PyObject *cells_object, *gains_object, *rows_tuple, *columns_tuple, *samples_object;
    if (!PyArg_ParseTuple(arguments, "OOO!O!O", &cells_object, &gains_object, &PyTuple_Type, &rows_tuple, &PyTuple_Type,
                          &columns_tuple, &samples_object))
        return NULL;
    Held held = {0};
    Planes cells = array(&held, cells_object, back, 0, SIZES(-1, -1, -1));
    const float *gains = READ(gains_object, cells.shape[0]).at;
    Axis rows = axis_of(&held, rows_tuple, cells.shape[1]), columns = axis_of(&held, columns_tuple, cells.shape[2]);
    Planes samples = array(&held, samples_object, !back, 0, SIZES(cells.shape[0], rows.count, columns.count));
    float *scratch = memory(&held, NEAR * columns.count, sizeof(float));
    if (!held.failed) {
        Py_BEGIN_ALLOW_THREADS
        if (back)
            own->interpolated_back(&samples, gains, &rows, &columns, &cells, scratch);
        else
            own->interpolated(&cells, gains, &rows, &columns, &samples, scratch);
        Py_END_ALLOW_THREADS
    }
    return finished(&held, NULL);
}

static PyObject *interpolate(PyObject *module, PyObject *arguments)
{
    return between(arguments, 0);
}

static PyObject *interpolate_back(PyObject *module, PyObject *arguments)
{
    return between(arguments, 1);
}

/* Kernel and bias of a filter's layers, and what leads back through the second and, if `whole`, the first. */
static void read_filter(Held *held, PyObject *tuple, int whole, Restored *model)
{
    PyObject *part[6];
    const int count = whole ? 6 : 5;
    if (PyTuple_Size(tuple) != count) {
        if (!held->failed)
            PyErr_Format(PyExc_ValueError, "expected %d arrays", count);
        held->failed = 1;
        return;
    }
    for (int i = 0; i < count; i++)
        part[i] = PyTuple_GetItem(tuple, i);
    Planes first = array(held, part[0], 0, 1, SIZES(-1, -1, 3, 3));
    const Py_ssize_t F = first.shape[0], seen = first.shape[1];
    model->seen = (int)seen;
    model->features = (int)F;
    model->first = first.at;
    model->first_bias = array(held, part[1], 0, 1, SIZES(F)).at;
    model->last = array(held, part[2], 0, 1, SIZES(3, F, 3, 3)).at;
    model->last_bias = array(held, part[3], 0, 1, SIZES(3)).at;
    model->by_last = array(held, part[4], 0, 1, SIZES(F, 3, 3, 3)).at;
    if (whole)
        model->by_first = array(held, part[5], 0, 1, SIZES(seen, F, 3, 3)).at;
}

static PyObject *tile(PyObject *module, PyObject *arguments)
{
    PyObject *x_object, *forwards, *backwards, *kernels, *target_object, *weight_object, *out_object;
    Py_ssize_t top, left, height, width;
    float scale;
    if (!PyArg_ParseTuple(arguments, "O(nnnn)O!O!O!OOfO", &x_object, &top, &left, &height, &width, &PyTuple_Type, &forwards,
                          &PyTuple_Type, &backwards, &PyTuple_Type, &kernels, &target_object, &weight_object, &scale, &out_object))
        return NULL;
    Held held = {0};
    Py_ssize_t units = 0, back_units = 0;
    Planes x = READ(x_object, -1, -1, -1);
    Py_ssize_t C = x.shape[0];
    Tile work = {x.shape[1], x.shape[2], top, left, height, width, x.at, .scale = scale};
    Restored model = {layers_of(&held, forwards, 2, C, C, &units), layers_of(&held, backwards, 1, 3, 3, &back_units)};
    model.units = (int)units;
    read_filter(&held, kernels, 1, &model);
    const int back = !Py_IsNone(target_object);
    if (back) {
        Planes target = array(&held, target_object, 0, 0, SIZES(3, height, width));
        work.target = target.at;
        work.by_target_plane = target.by[0];
        work.by_target_row = target.by[1];
    }
    if (!Py_IsNone(weight_object)) {
        Planes weight = array(&held, weight_object, 0, 0, SIZES(height, width));
        work.weight = weight.at;
        work.by_weight_row = weight.by[0];
    }
    work.out = (float *)(back ? WRITE(out_object, C, x.shape[1], x.shape[2]) : WRITE(out_object, 3, height, width)).at;
    /* Of the tile and two pixels around it, what x has not got is less than these two, and x has got something. */
    const Py_ssize_t below = height + 4 - top - x.shape[1], right = width + 4 - left - x.shape[2];
    if (!held.failed && (height < 1 || width < 1 || !x.shape[1] || !x.shape[2] || top < 0 || top > 2 || left < 0 || left > 2 ||
                         below < 0 || below > 2 || right < 0 || right > 2 || model.seen < 3 || model.seen > 3 + C ||
                         model.forwards.at[model.forwards.count].rows != 3 || units != back_units ||
                         model.backwards.at[model.backwards.count].rows != C)) {
        PyErr_SetString(PyExc_ValueError, "a tile that does not fit, or layers that do not");
        held.failed = 1;
    }
    double error = 0;
    float *scratch = memory(&held, held.failed ? 0 : tile_floats(&model, &work), sizeof(float));
    Row *rows = memory(&held, tile_places(&model), sizeof(Row));
    if (!held.failed) {
        Py_BEGIN_ALLOW_THREADS
        error = own->tile(&model, &work, scratch, rows);
        Py_END_ALLOW_THREADS
    }
    return finished(&held, held.failed ? NULL : PyFloat_FromDouble(error));
}

static PyObject *filter_slopes(PyObject *module, PyObject *arguments)
{
    PyObject *padded_object, *missing_object, *weight_object, *kernels, *found;
    float scale;
    if (!PyArg_ParseTuple(arguments, "OOOO!fO!", &padded_object, &missing_object, &weight_object, &PyTuple_Type, &kernels, &scale,
                          &PyTuple_Type, &found))
        return NULL;
    const Py_ssize_t wanted = PyTuple_Size(found);
    if (wanted && wanted != 4) {
        PyErr_SetString(PyExc_ValueError, "expected no array, or 4");
        return NULL;
    }
    Held held = {0};
    Restored model = {0};
    read_filter(&held, kernels, 0, &model);
    Planes missing = READ(missing_object, 3, -1, -1);
    Sample sample = {missing.shape[1], missing.shape[2], .missing = missing.at, .scale = scale};
    sample.padded = READ(padded_object, model.seen, sample.height + 4, sample.width + 4).at;
    if (!Py_IsNone(weight_object))
        sample.weight = READ(weight_object, sample.height, sample.width).at;
    float *slopes[4];
    const Py_ssize_t sizes[4] = {9 * (Py_ssize_t)model.seen * model.features, model.features, 27 * (Py_ssize_t)model.features, 3};
    for (int i = 0; i < wanted; i++)
        slopes[i] = (float *)WRITE(PyTuple_GetItem(found, i), sizes[i]).at;
    double error = 0;
    float *scratch = memory(&held, sample_floats(&model, &sample), sizeof(float));
    Row *rows = memory(&held, 2 * tile_places(&model), sizeof(Row));
    if (!held.failed) {
        Py_BEGIN_ALLOW_THREADS
        error = own->filter_slopes(&model, &sample, wanted ? slopes : NULL, scratch, rows);
        Py_END_ALLOW_THREADS
    }
    return finished(&held, held.failed ? NULL : PyFloat_FromDouble(error));
}

static PyObject *trunk(PyObject *module, PyObject *arguments)
{
    PyObject *padded_object, *coarser_object, *tuple, *out_object;
    if (!PyArg_ParseTuple(arguments, "OOO!O", &padded_object, &coarser_object, &PyTuple_Type, &tuple, &out_object))
        return NULL;
    Held held = {0};
    const int deep = !Py_IsNone(coarser_object);
    if (PyTuple_Size(tuple) != 6) {
        PyErr_SetString(PyExc_ValueError, "expected 6 arrays");
        return NULL;
    }
    Planes out = array(&held, out_object, 1, 0, SIZES(-1, -1, -1)), coarser = {0};
    Py_ssize_t F = out.shape[0], height = out.shape[1], width = out.shape[2];
    Planes padded = array(&held, padded_object, 0, 0, SIZES(-1, height + 2, width + 2));
    Py_ssize_t C = padded.shape[0];
    Trunk model = {(int)C, (int)F, READ(PyTuple_GetItem(tuple, 0), F, 9 * C).at, READ(PyTuple_GetItem(tuple, 1), F).at};
    if (deep) {
        coarser = array(&held, coarser_object, 0, 0, SIZES(F, (height + 1) / 2, (width + 1) / 2));
        model.above = READ(PyTuple_GetItem(tuple, 2), 2, 2, F, F).at;
        model.above_bias = READ(PyTuple_GetItem(tuple, 3), 2, 2, F).at;
    }
    float *scratch = memory(&held, F * (4 * width + 4), sizeof(float));
    Row *rows = memory(&held, 9 * C + F, sizeof(Row));
    if (!held.failed) {
        Py_BEGIN_ALLOW_THREADS
        own->trunk(&model, &padded, deep ? &coarser : NULL, &out, scratch, rows);
        Py_END_ALLOW_THREADS
    }
    return finished(&held, NULL);
}

static PyObject *trunk_back(PyObject *module, PyObject *arguments)
{
    PyObject *features_object, *by_object, *tuple, *by_values_object, *by_coarser_object;
    if (!PyArg_ParseTuple(arguments, "OOO!OO", &features_object, &by_object, &PyTuple_Type, &tuple, &by_values_object,
                          &by_coarser_object))
        return NULL;
    Held held = {0};
    const int deep = !Py_IsNone(by_coarser_object);
    if (PyTuple_Size(tuple) != 6) {
        PyErr_SetString(PyExc_ValueError, "expected 6 arrays");
        return NULL;
    }
    Planes features = array(&held, features_object, 0, 0, SIZES(-1, -1, -1)), by_coarser = {0};
    Py_ssize_t F = features.shape[0], height = features.shape[1], width = features.shape[2];
    Planes by_features = array(&held, by_object, 0, 0, SIZES(F, height, width));
    Planes by_values = array(&held, by_values_object, 1, 0, SIZES(-1, height, width));
    Py_ssize_t C = by_values.shape[0];
    Trunk model = {(int)C, (int)F, .back_kernel = READ(PyTuple_GetItem(tuple, 4), C, F, 3, 3).at};
    if (deep) {
        by_coarser = array(&held, by_coarser_object, 1, 0, SIZES(F, (height + 1) / 2, (width + 1) / 2));
        model.back_above = READ(PyTuple_GetItem(tuple, 5), 2, F, 2 * F).at;
    }
    float *scratch = memory(&held, F * ((RING + 2) * (width + 2)) + C * width, sizeof(float));
    Row *rows = memory(&held, 9 * F, sizeof(Row));
    if (!held.failed) {
        Py_BEGIN_ALLOW_THREADS
        own->trunk_back(&model, &features, &by_features, &by_values, deep ? &by_coarser : NULL, scratch, rows);
        Py_END_ALLOW_THREADS
    }
    return finished(&held, NULL);
}

/* Planes (C, h, w) with two rows of zeros above and two columns beside. */
static float *padded(Held *held, const Planes *values, Py_ssize_t *by_row)
{
    Py_ssize_t channels = values->shape[0], height = values->shape[1], width = values->shape[2];
    *by_row = width + 4;
    float *found = memory(held, channels * (height + 2) * *by_row, sizeof(float));
    if (!found)
        return NULL;
    memset(found, 0, (size_t)(channels * (height + 2) * *by_row) * sizeof(float));
    for (Py_ssize_t c = 0; c < channels; c++)
        for (Py_ssize_t y = 0; y < height; y++)
            memcpy(found + (c * (height + 2) + y + 2) * *by_row + 2,
                   (const float *)values->at + c * values->by[0] + y * values->by[1],
                   (size_t)width * sizeof(float));
    return found;
}

static PyObject *rate(PyObject *module, PyObject *arguments)
{
    PyObject *values_object, *trunk_object, *tuple, *mask_object, *one_object, *two_object;
    int gradients;
    if (!PyArg_ParseTuple(arguments, "OOO!OpOO", &values_object, &trunk_object, &PyTuple_Type, &tuple, &mask_object, &gradients,
                          &one_object, &two_object))
        return NULL;
    if (PyTuple_Size(tuple) != 11) {
        PyErr_SetString(PyExc_ValueError, "expected 11 arrays");
        return NULL;
    }
    Held held = {0};
    PyObject *part[11];
    for (int i = 0; i < 11; i++)
        part[i] = PyTuple_GetItem(tuple, i);
    const int deep = !Py_IsNone(trunk_object);
    Planes values = array(&held, values_object, 0, 0, SIZES(-1, -1, -1));
    Py_ssize_t C = values.shape[0], height = values.shape[1], width = values.shape[2];
    Planes trunk = {0};
    if (deep)
        trunk = array(&held, trunk_object, 0, 0, SIZES(-1, (height + 1) / 2, (width + 1) / 2));
    Planes causal = READ(part[0], -1, TAPS * C);
    Py_ssize_t H = causal.shape[0], F = trunk.shape[0];
    Planes bias = deep ? READ(part[1], 2, 2, H) : READ(part[1], H);
    Planes mid = READ(part[2], -1, H);
    Py_ssize_t M = mid.shape[0];
    Rate model = {(int)C, (int)H, (int)M, (int)F, causal.at, bias.at, mid.at};
    model.mid_bias = READ(part[3], M).at;
    model.head = READ(part[4], 2 * C, M).at;
    model.head_bias = READ(part[5], 2 * C).at;
    model.back_head = READ(part[6], M, 2 * C).at;
    model.back_mid = READ(part[7], H, M).at;
    model.back_causal = READ(part[8], TAPS * C, H).at;
    if (deep) {
        model.above = READ(part[9], 2, 2, H, F).at;
        model.back_above = READ(part[10], 2, F, 2 * H).at;
    }
    Stripe work = {.height = height, .width = width, .trunk = trunk.at, .by_trunk_row = trunk.by[1], .by_trunk_plane = trunk.by[0]};
    Planes by_values = {0};
    if (!Py_IsNone(mask_object))
        work.mask = READ(mask_object, height, width).at;
    if (gradients) {
        by_values = array(&held, one_object, 1, 0, SIZES(C, height, width));
        if (deep) {
            Planes by_trunk = array(&held, two_object, 1, 0, SIZES(F, (height + 1) / 2, (width + 1) / 2));
            work.by_trunk = (float *)by_trunk.at;
            if (!held.failed && (by_trunk.by[0] != trunk.by[0] || by_trunk.by[1] != trunk.by[1])) {
                held.failed = 1;
                PyErr_SetString(PyExc_ValueError, "expected a trunk and its gradient with the same strides");
            }
        }
    } else if (Py_IsNone(two_object))
        work.bits = (float *)WRITE(one_object, height, width).at;
    else {
        work.mean = (float *)WRITE(one_object, C, height, width).at;
        work.log_scale = (float *)WRITE(two_object, C, height, width).at;
    }
    float *around = NULL, *gradient = NULL, *scratch = NULL;
    Row *rows = NULL;
    double bits = 0;
    if (!held.failed)
        around = padded(&held, &values, &work.by_row);
    if (gradients)
        gradient = memory(&held, C * (height + 2) * work.by_row, sizeof(float));
    scratch = memory(&held, (4 * H + 2 * M + (4 + TAPS) * C + F + 3) * LONGEST, sizeof(float));
    rows = memory(&held, 2 * H + M + F + TAPS * C, sizeof(Row));
    if (!held.failed) {
        work.padded = around;
        work.by_plane = (height + 2) * work.by_row;
        work.gradient = gradient;
        Py_BEGIN_ALLOW_THREADS
        if (gradient)
            memset(gradient, 0, (size_t)(C * work.by_plane) * sizeof(float));
        bits = own->stripe(&model, &work, scratch, rows);
        for (Py_ssize_t c = 0; gradient && c < C; c++)
            for (Py_ssize_t y = 0; y < height; y++) {
                float *into = (float *)by_values.at + c * by_values.by[0] + y * by_values.by[1];
                const float *from = gradient + c * work.by_plane + (y + 2) * work.by_row + 2;
                for (Py_ssize_t x = 0; x < width; x++)
                    into[x] += from[x];
            }
        Py_END_ALLOW_THREADS
    }
    return finished(&held, held.failed ? NULL : PyFloat_FromDouble(bits));
}

static PyObject *rate_ends(PyObject *module, PyObject *arguments)
{
    PyObject *first_object, *values_object, *tuple, *found;
    if (!PyArg_ParseTuple(arguments, "OOO!O!", &first_object, &values_object, &PyTuple_Type, &tuple, &PyTuple_Type, &found))
        return NULL;
    const Py_ssize_t wanted = PyTuple_Size(found);
    if (PyTuple_Size(tuple) != 7 || (wanted && wanted != 5)) {
        PyErr_SetString(PyExc_ValueError, "expected 7 arrays, and none or 5");
        return NULL;
    }
    Held held = {0};
    PyObject *part[7], *by[5];
    for (int i = 0; i < 7; i++)
        part[i] = PyTuple_GetItem(tuple, i);
    for (int i = 0; i < wanted; i++)
        by[i] = PyTuple_GetItem(found, i);
    Planes first = array(&held, first_object, 0, 0, SIZES(-1, -1));
    Planes values = array(&held, values_object, 0, 0, SIZES(-1, first.shape[1])), mid = READ(part[1], -1, first.shape[0]);
    Py_ssize_t H = first.shape[0], M = mid.shape[0], C = values.shape[0];
    Ends model = {(int)C, (int)H, (int)M, first.by[0], values.by[0], first.at, values.at, .mid = mid.at};
    model.shift = READ(part[0], H).at;
    model.mid_bias = READ(part[2], M).at;
    model.head = READ(part[3], 2 * C, M).at;
    model.head_bias = READ(part[4], 2 * C).at;
    model.back_mid = READ(part[5], H, M).at;
    model.back_head = READ(part[6], M, 2 * C).at;
    if (wanted) {
        model.by_shift = (float *)WRITE(by[0], H).at;
        model.by_mid = (float *)WRITE(by[1], M, H).at;
        model.by_mid_bias = (float *)WRITE(by[2], M).at;
        model.by_head = (float *)WRITE(by[3], 2 * C, M).at;
        model.by_head_bias = (float *)WRITE(by[4], 2 * C).at;
    }
    double bits = 0;
    float *scratch = memory(&held, (2 * H + 2 * M + 4 * C + 3) * LONGEST, sizeof(float));
    Row *rows = memory(&held, 2 * (H + M + 2 * C), sizeof(Row));
    if (!held.failed) {
        Py_BEGIN_ALLOW_THREADS
        bits = own->ends(&model, first.shape[1], scratch, rows);
        Py_END_ALLOW_THREADS
    }
    return finished(&held, held.failed ? NULL : PyFloat_FromDouble(bits));
}

static PyObject *adam(PyObject *module, PyObject *arguments)
{
    PyObject *state_object, *gradient_object;
    float bits, rate;
    int count;
    if (!PyArg_ParseTuple(arguments, "OOffi", &state_object, &gradient_object, &bits, &rate, &count))
        return NULL;
    Held held = {0};
    Planes state = WRITE(state_object, 3, -1);
    Py_ssize_t n = state.shape[1];
    const float *gradient = READ(gradient_object, n).at;
    float *changes = (float *)state.at;
    if (!held.failed)
        own->adam(n, changes, changes + n, changes + 2 * n, gradient, bits, rate, count);
    return finished(&held, NULL);
}

static PyObject *round_softly(PyObject *module, PyObject *arguments)
{
    PyObject *values_object, *noise_object, *rounded_object, *slopes_object;
    float temperature;
    if (!PyArg_ParseTuple(arguments, "OOfOO", &values_object, &noise_object, &temperature, &rounded_object, &slopes_object))
        return NULL;
    Held held = {0};
    Planes values = READ(values_object, -1), noise = READ(noise_object, values.shape[0]);
    Planes rounded = WRITE(rounded_object, values.shape[0]), slopes = WRITE(slopes_object, values.shape[0]);
    if (!held.failed) {
        Py_BEGIN_ALLOW_THREADS
        own->rounded_softly(values.shape[0], values.at, noise.at, temperature, (float *)rounded.at, (float *)slopes.at);
        Py_END_ALLOW_THREADS
    }
    return finished(&held, NULL);
}

/* A level, of `entropy`'s tensors from `causal` on. */
static Exact exact_of(Held *held, PyObject *tuple, Py_ssize_t C, Py_ssize_t H)
{
    Exact found = {(int)C, (int)H};
    if (!held->failed && PyTuple_Size(tuple) != 7) {
        PyErr_SetString(PyExc_ValueError, "expected 7 arrays");
        held->failed = 1;
    }
    if (held->failed)
        return found;
    PyObject *part[7];
    for (int i = 0; i < 7; i++)
        part[i] = PyTuple_GetItem(tuple, i);
    const Planes mid = array_of('d', held, part[1], 0, 1, SIZES(H, -1));
    const Py_ssize_t M = mid.shape[1];
    found.middle = (int)M;
    found.causal = array_of('d', held, part[0], 0, 1, SIZES(TAPS * C, H)).at;
    found.mid = mid.at;
    found.mid_bias = array_of('d', held, part[2], 0, 1, SIZES(M)).at;
    found.head = array_of('d', held, part[3], 0, 1, SIZES(M, 2 * C)).at;
    found.head_bias = array_of('d', held, part[4], 0, 1, SIZES(2 * C)).at;
    found.least = array_of('d', held, part[5], 0, 1, SIZES(2 * C)).at;
    found.most = array_of('d', held, part[6], 0, 1, SIZES(2 * C)).at;
    return found;
}

/* What `symbols_at` needs. */
static double *exact_memory(Held *held, const Exact *model)
{
    Py_ssize_t units = (Py_ssize_t)(TAPS + 2) * model->channels + model->hidden + model->middle;
    return memory(held, units * CELLS, sizeof(double));
}

/* Whether cells and their taps lie within padded planes of so many values, and within `all` cells. */
static void check_cells(Held *held, Py_ssize_t n, const int64_t *places, const int64_t *offsets, const int64_t *cells,
                        Py_ssize_t values, Py_ssize_t all)
{
    for (Py_ssize_t i = 0; !held->failed && i < n; i++) {
        int inside = places[i] >= 0 && places[i] < values && cells[i] >= 0 && cells[i] < all;
        for (int t = 0; t < TAPS; t++)
            inside &= places[i] + offsets[t] >= 0 && places[i] + offsets[t] < values;
        if (!inside) {
            PyErr_SetString(PyExc_ValueError, "a cell lies outside of its arrays");
            held->failed = 1;
        }
    }
}

static PyObject *symbols(PyObject *module, PyObject *arguments)
{
    PyObject *padded_object, *places_object, *offsets_object, *above_object, *cells_object, *tuple, *mean_object, *row_object;
    if (!PyArg_ParseTuple(arguments, "OOOOOO!OO", &padded_object, &places_object, &offsets_object, &above_object, &cells_object,
                          &PyTuple_Type, &tuple, &mean_object, &row_object))
        return NULL;
    Held held = {0};
    Planes padded = array_of('d', &held, padded_object, 0, 1, SIZES(-1, -1));
    Planes places = array_of('l', &held, places_object, 0, 1, SIZES(-1)), above = READ(above_object, -1, -1);
    Exact model = exact_of(&held, tuple, padded.shape[0], above.shape[1]);
    Py_ssize_t n = places.shape[0];
    const int64_t *offsets = NUMBERS('l', offsets_object, TAPS), *cells = NUMBERS('l', cells_object, n);
    int64_t *mean = (int64_t *)array_of('l', &held, mean_object, 1, 1, SIZES(n * model.channels)).at;
    int64_t *row = (int64_t *)array_of('l', &held, row_object, 1, 1, SIZES(n * model.channels)).at;
    double *scratch = exact_memory(&held, &model);
    check_cells(&held, n, places.at, offsets, cells, padded.shape[1], above.shape[0]);
    if (!held.failed) {
        Py_BEGIN_ALLOW_THREADS
        own->symbols_at(&model, n, padded.at, padded.shape[1], places.at, offsets, above.at, cells, mean, row, scratch);
        Py_END_ALLOW_THREADS
    }
    return finished(&held, NULL);
}

static PyObject *decode(PyObject *module, PyObject *arguments)
{
    PyObject *state_object, *words_object, *padded_object, *ends_object, *places_object, *offsets_object, *above_object,
        *cells_object, *tuple, *bounds_object, *shifts_object, *bits_object;
    if (!PyArg_ParseTuple(arguments, "OOOOOOOOO!OOO", &state_object, &words_object, &padded_object, &ends_object, &places_object,
                          &offsets_object, &above_object, &cells_object, &PyTuple_Type, &tuple, &bounds_object, &shifts_object,
                          &bits_object))
        return NULL;
    Held held = {0};
    int64_t *state = (int64_t *)array_of('l', &held, state_object, 1, 1, SIZES(3)).at;
    Planes words = array_of('l', &held, words_object, 0, 1, SIZES(-1));
    Planes padded = array_of('d', &held, padded_object, 1, 1, SIZES(-1, -1));
    Planes ends = array_of('l', &held, ends_object, 0, 1, SIZES(-1));
    Planes places = array_of('l', &held, places_object, 0, 1, SIZES(-1)), above = READ(above_object, -1, -1);
    Planes bounds = array_of('i', &held, bounds_object, 0, 1, SIZES(-1, -1));
    Planes bits = array_of('i', &held, bits_object, 0, 1, SIZES(-1));
    Exact model = exact_of(&held, tuple, padded.shape[0], above.shape[1]);
    Py_ssize_t n = places.shape[0], waves = ends.shape[0] - 1, longest = 0;
    Tables tables = {(int)bounds.shape[1] - 1, bounds.at, NUMBERS('l', shifts_object, bounds.shape[0]), (int)bits.shape[0] - 1,
                     bits.at};
    Block block = {waves, ends.at, places.at, NUMBERS('l', cells_object, n), NUMBERS('l', offsets_object, TAPS), above.at};
    check_cells(&held, n, block.places, block.offsets, block.cells, padded.shape[1], above.shape[0]);
    for (int c = model.channels; !held.failed && c < 2 * model.channels; c++)
        if (!(model.least[c] >= 0 && 16 * (model.most[c] + 1) <= (double)bounds.shape[0])) {
            PyErr_SetString(PyExc_ValueError, "a table with too few rows");
            held.failed = 1;
        }
    for (Py_ssize_t i = 0; !held.failed && i <= waves; i++) {
        const int64_t before = i ? block.ends[i - 1] : 0;
        if (block.ends[i] < before || block.ends[i] > n || (i == 0 && block.ends[i])) {
            PyErr_SetString(PyExc_ValueError, "wavefronts that do not follow each other");
            held.failed = 1;
        } else if (block.ends[i] - before > longest)
            longest = block.ends[i] - before;
    }
    int64_t *found = memory(&held, 2 * longest * model.channels, sizeof(int64_t));
    double *scratch = exact_memory(&held, &model);
    int valid = 0;
    if (!held.failed) {
        Decoder decoder = {words.at, words.shape[0], state[0], (uint64_t)state[1], (uint64_t)state[2]};
        Py_BEGIN_ALLOW_THREADS
        valid = block_decoded(&decoder, own, &model, &tables, &block, (double *)padded.at, padded.shape[1], found,
                              found + longest * model.channels, scratch);
        Py_END_ALLOW_THREADS
        state[0] = decoder.at;
        state[1] = (int64_t)decoder.range;
        state[2] = (int64_t)decoder.offset;
    }
    return finished(&held, held.failed ? NULL : PyBool_FromLong(valid));
}

static PyMethodDef methods[] = {
    {"siren", siren, METH_VARARGS, "siren(x, layers, values)"},
    {"convolve", convolve, METH_VARARGS, "convolve(planes, kernel, bias, rectified, out)"},
    {"interpolate", interpolate, METH_VARARGS, "interpolate(values, gains, rows, columns, out)"},
    {"interpolate_back", interpolate_back, METH_VARARGS, "interpolate_back(by_values, gains, rows, columns, by_out)"},
    {"tile", tile, METH_VARARGS, "tile(x, place, forwards, backwards, kernels, target, weight, scale, by x or the picture)"},
    {"filter_slopes", filter_slopes, METH_VARARGS, "filter_slopes(padded, missing, weight, kernels, scale, slopes)"},
    {"trunk", trunk, METH_VARARGS, "trunk(padded, coarser, parts, out)"},
    {"trunk_back", trunk_back, METH_VARARGS, "trunk_back(features, by_features, parts, by_values, by_coarser)"},
    {"rate", rate, METH_VARARGS,
     "rate(values, trunk, parts, mask, gradients, by_values or mean or bits, by_trunk or log_scale or None)"},
    {"round_softly", round_softly, METH_VARARGS, "round_softly(values, noise, temperature, rounded, slopes)"},
    {"symbols", symbols, METH_VARARGS, "symbols(padded, places, offsets, above, cells, parts, mean, row)"},
    {"decode", decode, METH_VARARGS,
     "decode(state, words, padded, ends, places, offsets, above, cells, parts, bounds, shifts, bounds of bits)"},
    {"rate_ends", rate_ends, METH_VARARGS, "rate_ends(first, values, parts, gradients that are added to, or none)"},
    {"adam", adam, METH_VARARGS, "adam(state, gradient, bits, rate, count)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void)
{
#ifdef HAS_AVX
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        own = &arithmetic_avx512;
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        own = &arithmetic_avx2;
#endif
    return PyModule_Create(&definition);
}
