/* One look at each message of a poll instead of four: is any of them an error, which partition is it of, how many bytes does it
   hold. It calls the client's own methods, without the interpreter's way to them, which costs five times what they do. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

static PyTypeObject *type_of_messages;
static PyCFunction error_of, partition_of, key_of;

static PyCFunction method(PyObject *type, const char *name)
{
    PyObject *found = PyObject_GetAttrString(type, name);
    PyCFunction function = NULL;
    if (found == NULL)
        return NULL;
    if (Py_IS_TYPE(found, &PyMethodDescr_Type) && ((PyMethodDescrObject *)found)->d_method->ml_flags == METH_NOARGS)
        function = ((PyMethodDescrObject *)found)->d_method->ml_meth;
    else
        PyErr_Format(PyExc_TypeError, "%s is not a method in C without arguments", name);
    Py_DECREF(found);
    return function;
}

PyDoc_STRVAR(prepare_doc, "prepare(type)\n--\n\nLearns the type of all messages; TypeError if its methods are not as expected.");

static PyObject *prepare(PyObject *module, PyObject *type)
{
    PyCFunction error, partition, key;
    if (!PyType_Check(type))
        return PyErr_Format(PyExc_TypeError, "not a type");
    if ((error = method(type, "error")) == NULL || (partition = method(type, "partition")) == NULL ||
        (key = method(type, "key")) == NULL)
        return NULL;
    error_of = error;
    key_of = key;
    partition_of = partition;
    Py_INCREF(type); /* for good */
    type_of_messages = (PyTypeObject *)type;
    Py_RETURN_NONE;
}

typedef struct {
    PyObject *number, *messages;
    Py_ssize_t bytes;
} Group;

typedef struct {
    Group *all;
    Py_ssize_t count;
} Groups;

static void drop(Groups *groups)
{
    for (Py_ssize_t i = 0; i < groups->count; i++) {
        Py_DECREF(groups->all[i].number);
        Py_XDECREF(groups->all[i].messages);
    }
    PyMem_Free(groups->all);
}

/* Takes over `number`; NULL: failed. */
static Group *group_of(Groups *groups, PyObject *number, Group *last)
{
    Group *group, *more;
    if (last != NULL && last->number == number) { /* small numbers are always the same object */
        Py_DECREF(number);
        return last;
    }
    for (Py_ssize_t i = 0; i < groups->count; i++) {
        int same = PyObject_RichCompareBool(groups->all[i].number, number, Py_EQ);
        if (same) {
            Py_DECREF(number);
            return same < 0 ? NULL : &groups->all[i];
        }
    }
    more = PyMem_Realloc(groups->all, (groups->count + 1) * sizeof(Group));
    if (more == NULL) {
        Py_DECREF(number);
        PyErr_NoMemory();
        return NULL;
    }
    groups->all = more;
    group = &more[groups->count++];
    *group = (Group){number, NULL, 0};
    return group;
}

/* Only where there are several: the list of a single one is the one that was polled. */
static int add(Groups *groups, Group *group, PyObject *messages, Py_ssize_t at, PyObject *message)
{
    if (groups->count == 1)
        return 0;
    if (groups->all[0].messages == NULL && (groups->all[0].messages = PyList_GetSlice(messages, 0, at)) == NULL)
        return -1;
    if (group->messages == NULL && (group->messages = PyList_New(0)) == NULL)
        return -1;
    return PyList_Append(group->messages, message);
}

/* 1: it is an error; -1: failed. */
static int look(Groups *groups, Group **group, PyObject *messages, Py_ssize_t at, PyObject *message)
{
    PyObject *found;
    Py_ssize_t size;
    if (!PyObject_TypeCheck(message, type_of_messages)) {
        PyErr_Format(PyExc_TypeError, "not a message: %R", message);
        return -1;
    }
    if ((found = error_of(message, NULL)) == NULL)
        return -1;
    Py_DECREF(found);
    if (found != Py_None)
        return 1;
    if ((found = partition_of(message, NULL)) == NULL || (*group = group_of(groups, found, *group)) == NULL)
        return -1;
    if ((size = PyObject_Size(message)) < 0)
        return -1;
    if ((found = key_of(message, NULL)) == NULL)
        return -1;
    (*group)->bytes += size + (PyBytes_Check(found) ? PyBytes_GET_SIZE(found) : 0);
    Py_DECREF(found);
    return add(groups, *group, messages, at, message);
}

static PyObject *told(Groups *groups, PyObject *messages)
{
    PyObject *list = PyList_New(groups->count);
    for (Py_ssize_t i = 0; list != NULL && i < groups->count; i++) {
        Group *group = &groups->all[i];
        PyObject *one = Py_BuildValue("(OOn)", group->number, group->messages ? group->messages : messages, group->bytes);
        if (one == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, one);
    }
    return list;
}

PyDoc_STRVAR(by_partition_doc,
             "by_partition(messages)\n--\n\n"
             "For each partition that the list has messages of: its number, its messages, and how many bytes their values and keys have.\n"
             "None: one of them is an error. TypeError if something else than a message is among them.");

static PyObject *by_partition(PyObject *module, PyObject *messages)
{
    Groups groups = {NULL, 0};
    Group *group = NULL;
    PyObject *result = NULL;
    int found = 0;
    if (type_of_messages == NULL || !PyList_CheckExact(messages))
        return PyErr_Format(PyExc_TypeError, "not prepared, or not a list");
    for (Py_ssize_t i = 0; found == 0 && i < PyList_GET_SIZE(messages); i++) {
        PyObject *message = Py_NewRef(PyList_GET_ITEM(messages, i));
        found = look(&groups, &group, messages, i, message);
        Py_DECREF(message);
    }
    if (found == 0)
        result = told(&groups, messages);
    else if (found > 0)
        result = Py_NewRef(Py_None);
    drop(&groups);
    return result;
}

static PyMethodDef methods[] = {
    {"prepare", prepare, METH_O, prepare_doc},
    {"by_partition", by_partition, METH_O, by_partition_doc},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kafka_scan", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kafka_scan(void)
{
    return PyModule_Create(&definition);
}
