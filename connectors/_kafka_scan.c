/* One look at each message of a poll instead of three: is any of them an error, are they all of one partition, how many bytes do
   they hold. It calls the client's own methods, without the interpreter's way to them, which costs five times what they do. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

static PyTypeObject *type_of_messages;
static PyCFunction error_of, partition_of;

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
    PyCFunction error, partition;
    if (!PyType_Check(type))
        return PyErr_Format(PyExc_TypeError, "not a type");
    if ((error = method(type, "error")) == NULL || (partition = method(type, "partition")) == NULL)
        return NULL;
    error_of = error;
    partition_of = partition;
    Py_INCREF(type); /* for good */
    type_of_messages = (PyTypeObject *)type;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(scan_doc,
             "scan(messages)\n--\n\n"
             "Whether one of the list is an error (then nothing else is looked at); the partition number of all, None if there are\n"
             "several; how many bytes their values have. TypeError if something else than a message is among them.");

static PyObject *scan(PyObject *module, PyObject *messages)
{
    Py_ssize_t bytes = 0;
    PyObject *number = NULL; /* of the first */
    int several = 0;
    if (type_of_messages == NULL || !PyList_CheckExact(messages))
        return PyErr_Format(PyExc_TypeError, "not prepared, or not a list");
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(messages); i++) {
        PyObject *message = PyList_GET_ITEM(messages, i), *found;
        Py_ssize_t size;
        if (!PyObject_TypeCheck(message, type_of_messages)) {
            PyErr_Format(PyExc_TypeError, "not a message: %R", message);
            goto failed;
        }
        if ((found = error_of(message, NULL)) == NULL)
            goto failed;
        Py_DECREF(found);
        if (found != Py_None) {
            Py_XDECREF(number);
            return Py_BuildValue("(OOi)", Py_True, Py_None, 0);
        }
        if (!several) {
            if ((found = partition_of(message, NULL)) == NULL)
                goto failed;
            if (number == NULL) {
                number = found;
            }
            else {
                several = found != number ? PyObject_RichCompareBool(found, number, Py_NE) : 0;
                Py_DECREF(found);
                if (several < 0)
                    goto failed;
            }
        }
        if ((size = PyObject_Size(message)) < 0)
            goto failed;
        bytes += size;
    }
    if (several || number == NULL) {
        Py_XDECREF(number);
        number = Py_NewRef(Py_None);
    }
    return Py_BuildValue("(ONn)", Py_False, number, bytes);
failed:
    Py_XDECREF(number);
    return NULL;
}

static PyMethodDef methods[] = {
    {"prepare", prepare, METH_O, prepare_doc}, {"scan", scan, METH_O, scan_doc}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kafka_scan", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kafka_scan(void)
{
    return PyModule_Create(&definition);
}
