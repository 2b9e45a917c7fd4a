/* A stand-in for CANN, the runtime under torch-npu: one device whose memory is the host's, and operators that are launched,
 * counted, and never computed.
 *
 * Counted is each launch, and each launch with a key that was not seen before. A key is the operator's name, dtype and shape of
 * each tensor, and every int, bool and dtype that goes with it; floats and addresses are not in it, and neither is a seed.
 *
 * There are no values. Whoever asks for one, or for a shape that follows from values, gets an error, and that is counted; but
 * for what the host has put there itself and nothing has changed since, which fixshape allows.
 *
 *   API        marks a function that does something; torch-npu finds it by its name
 *   ZERO       is one for which "done" (0) is the whole truth, on a device that does nothing
 *   OPERATOR   is a pair aclnnX, aclnnXGetWorkspaceSize; the names are read from the installed wheel
 *
 * Whatever else torch-npu looks up is not there, as in an older CANN. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define API __attribute__((visibility("default")))
#define ZERO(name) API int name(void) { return 0; }

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void fail(const char *what) {
  fprintf(stderr, "fixshape: the CANN stand-in ends the process: %s\n", what);
  abort();
}

static void *grown(void *block, size_t size) {
  void *result = realloc(block, size);
  if (!result) fail("the host has no memory left");
  return result;
}

/* ---- text: the key of a launch is put together from pieces ---- */
typedef struct {
  char *data;
  size_t length, room;
} Text;

static void say(Text *text, const char *format, ...) {
  for (;;) {
    size_t left = text->room - text->length;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text->data ? text->data + text->length : NULL, left, format, arguments);
    va_end(arguments);
    if (length < 0) fail("a number has no text");
    if ((size_t)length < left) {
      text->length += (size_t)length;
      return;
    }
    text->room = 2 * text->room + (size_t)length + 64;
    text->data = grown(text->data, text->room);
  }
}

/* ---- handles: tensors, scalars, lists and attributes, each with its piece of the key ----
 * They lie in one reserved range of addresses, so that an argument can be told from a number. */
enum { MAX_DIMS = 64, MAX_HANDLES = 1 << 20 };
typedef struct Handle {
  struct Handle *next; /* free list */
  struct Handle **parts;
  uint64_t count;
  Text text;
  int dtype, format, ndim, on_host;
  int64_t dims[MAX_DIMS];
} Handle;

static Handle *handles, *free_handles;
static size_t handles_used;

static Handle *new_handle(void) {
  pthread_mutex_lock(&lock);
  if (!handles) {
    handles = mmap(NULL, sizeof(Handle) * MAX_HANDLES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (handles == MAP_FAILED) fail("the host has no addresses left");
  }
  Handle *handle = free_handles;
  if (handle) {
    free_handles = handle->next;
  } else {
    if (handles_used == MAX_HANDLES) fail("torch-npu keeps more than 1,048,576 handles");
    handle = handles + handles_used++;
  }
  pthread_mutex_unlock(&lock);
  memset(handle, 0, sizeof *handle);
  return handle;
}

static void drop_handle(Handle *handle) {
  if (!handle) return;
  for (uint64_t i = 0; i < handle->count; i++) drop_handle(handle->parts[i]);
  free(handle->parts);
  free(handle->text.data);
  pthread_mutex_lock(&lock);
  handle->next = free_handles;
  free_handles = handle;
  pthread_mutex_unlock(&lock);
}

static const Handle *as_handle(int64_t value) {
  uintptr_t first = (uintptr_t)handles, address = (uintptr_t)value;
  if (!first || address < first || address >= first + sizeof(Handle) * handles_used) return NULL;
  return (address - first) % sizeof(Handle) ? NULL : (const Handle *)address;
}

static const char *piece(const Handle *handle) { return handle && handle->text.data ? handle->text.data : "-"; }

/* CANN's numbers of the dtypes whose values belong to a key, and their size in bytes; 0 for any other. */
static int whole_number_size(int dtype) {
  switch (dtype) {
    case 2: case 4: case 12: return 1; /* int8, uint8, bool */
    case 6: case 7: return 2;          /* int16, uint16 */
    case 3: case 8: return 4;          /* int32, uint32 */
    case 9: case 10: return 8;         /* int64, uint64 */
    default: return 0;
  }
}

static void say_values(Text *text, int dtype, const void *data, size_t bytes) {
  size_t size = (size_t)whole_number_size(dtype);
  if (!size || !data) return;
  for (const char *at = data, *end = at + bytes / size * size; at < end; at += size) {
    int64_t value = 0;
    memcpy(&value, at, size);
    say(text, "%" PRId64 ",", value);
  }
}

static void describe_tensor(Handle *tensor, const int64_t *dims, int ndim, int dtype) {
  tensor->dtype = dtype;
  tensor->ndim = ndim < 0 ? 0 : ndim > MAX_DIMS ? MAX_DIMS : ndim;
  tensor->text.length = 0;
  say(&tensor->text, "%d[", dtype);
  for (int i = 0; i < tensor->ndim; i++) say(&tensor->text, i ? ",%" PRId64 : "%" PRId64, tensor->dims[i] = dims[i]);
  say(&tensor->text, "]");
}

/* ---- the counts ---- */
typedef struct {
  char *name;
  long launches, compiles;
} Operator;

static struct { char **entries; size_t used, room; } keys;   /* hash table of every key so far */
static struct { Operator *entries; size_t used, room; } operators;
static long launches, compiles, refused, unread;
static int reads_allowed;
enum { REFUSED = 500000, WRONG = 100000 };

static int refuse(void) {
  pthread_mutex_lock(&lock);
  refused++;
  pthread_mutex_unlock(&lock);
  return REFUSED;
}

static uint64_t hash(const char *text) {
  uint64_t sum = 1469598103934665603u;
  while (*text) sum = (sum ^ (unsigned char)*text++) * 1099511628211u;
  return sum;
}

static size_t place_of(const char *key) {
  size_t place = hash(key) & (keys.room - 1);
  while (keys.entries[place] && strcmp(keys.entries[place], key)) place = (place + 1) & (keys.room - 1);
  return place;
}

static int is_new(const char *key) {
  if (2 * keys.used >= keys.room) {
    char **old = keys.entries;
    size_t room = keys.room;
    keys.room = room ? 2 * room : 4096;
    keys.entries = calloc(keys.room, sizeof *keys.entries);
    if (!keys.entries) fail("the host has no memory left");
    for (size_t i = 0; i < room; i++)
      if (old[i]) keys.entries[place_of(old[i])] = old[i];
    free(old);
  }
  size_t place = place_of(key);
  if (keys.entries[place]) return 0;
  keys.entries[place] = strdup(key);
  keys.used++;
  return 1;
}

static Operator *operator_of(const char *name) {
  for (size_t i = 0; i < operators.used; i++)
    if (!strcmp(operators.entries[i].name, name)) return operators.entries + i;
  if (operators.used == operators.room) {
    operators.room = 2 * operators.room + 256;
    operators.entries = grown(operators.entries, operators.room * sizeof *operators.entries);
  }
  Operator *operator = operators.entries + operators.used++;
  *operator = (Operator){strdup(name), 0, 0};
  return operator;
}

static int launch(const char *name, Text *key) {
  pthread_mutex_lock(&lock);
  Operator *operator = operator_of(name);
  int fresh = is_new(key->data);
  operator->launches++;
  operator->compiles += fresh;
  launches++;
  compiles += fresh;
  pthread_mutex_unlock(&lock);
  if (fresh && getenv("FIXSHAPE_CANN_TRACE")) fprintf(stderr, "compile %s\n", key->data);
  free(key->data);
  return 0;
}

/* An operator that draws numbers is given a seed and an offset, which are new at each launch. */
static int draws(const char *name) {
  static const char *const words[] = {"Random", "random", "Stateless", "Dropout", "DropOut", "Bernoulli", "Multinomial", "Uniform",
                                      "InplaceNormal", "NormalFloat", "NormalTensor", "Randperm", "Exponential", "Geometric"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (strstr(name, words[i])) return 1;
  return 0;
}

/* What fixshape reads. */
API void fixshape_counts(long *values) {
  pthread_mutex_lock(&lock);
  values[0] = launches, values[1] = compiles, values[2] = refused, values[3] = unread;
  pthread_mutex_unlock(&lock);
}
API void fixshape_allow_reads(int allowed) { reads_allowed = allowed; }
API const char *fixshape_operator(size_t index, long *values) {
  const char *name = NULL;
  pthread_mutex_lock(&lock);
  if (index < operators.used) {
    name = operators.entries[index].name;
    values[0] = operators.entries[index].launches, values[1] = operators.entries[index].compiles;
  }
  pthread_mutex_unlock(&lock);
  return name;
}

/* ---- operators that have a compiled form in the library: aclnn ----
 * Arguments are handles, whole numbers, or floats. Floats travel in registers of their own; the others are taken as 64 bits
 * each, of which a narrower argument fills the lower part. The last two point to results of the caller, on its stack. */
enum { MOST = 40, NEAR = 1 << 16 };

static int is_result(const int64_t *arguments, int i) {
  uintptr_t here = (uintptr_t)arguments, address = (uintptr_t)arguments[i];
  if (address <= here || address >= here + NEAR || address % 8 || as_handle(arguments[i])) return 0;
  return *(const int64_t *)address == 0;
}

static int prepare(const char *name, const int64_t *arguments) {
  Text key = {0};
  say(&key, "%s", name);
  int count = 0, random = draws(name);
  while (count < MOST - 1 && !(is_result(arguments, count) && is_result(arguments, count + 1))) count++;
  if (count == MOST - 1) {
    pthread_mutex_lock(&lock);
    unread++;
    pthread_mutex_unlock(&lock);
    count = 0;
  }
  for (int i = 0; i < count; i++) {
    const Handle *handle = as_handle(arguments[i]);
    if (handle) {
      say(&key, " %s", piece(handle));
    } else if ((arguments[i] >> 32) > 0 && (arguments[i] >> 47) == 0) {
      say(&key, " text"); /* an address of the host: a layout's name and the like */
    } else if (!random) {
      say(&key, " %" PRId32, (int32_t)arguments[i]);
    }
  }
  return launch(name, &key);
}

#define ARGUMENTS                                                                                                             \
  int64_t a0, int64_t a1, int64_t a2, int64_t a3, int64_t a4, int64_t a5, int64_t a6, int64_t a7, int64_t a8, int64_t a9,     \
      int64_t a10, int64_t a11, int64_t a12, int64_t a13, int64_t a14, int64_t a15, int64_t a16, int64_t a17, int64_t a18,    \
      int64_t a19, int64_t a20, int64_t a21, int64_t a22, int64_t a23, int64_t a24, int64_t a25, int64_t a26, int64_t a27,    \
      int64_t a28, int64_t a29, int64_t a30, int64_t a31, int64_t a32, int64_t a33, int64_t a34, int64_t a35, int64_t a36,    \
      int64_t a37, int64_t a38, int64_t a39
#define VALUES                                                                                                                \
  a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, a17, a18, a19, a20, a21, a22, a23, a24, a25,     \
      a26, a27, a28, a29, a30, a31, a32, a33, a34, a35, a36, a37, a38, a39
#define OPERATOR(name)                                                                                                        \
  API int name##GetWorkspaceSize(ARGUMENTS) {                                                                                 \
    const int64_t arguments[MOST] = {VALUES};                                                                                 \
    return prepare(#name, arguments);                                                                                         \
  }                                                                                                                           \
  ZERO(name)
#include "operators.h"

API void *aclCreateTensor(const int64_t *dims, uint64_t ndim, int dtype, const int64_t *strides, int64_t offset, int format,
                          const int64_t *storage, uint64_t storage_ndim, void *data) {
  Handle *tensor = new_handle();
  describe_tensor(tensor, dims, (int)ndim, dtype);
  return tensor;
}
/* Asked for after a launch, of a result whose shape follows from values. */
API int aclGetViewShape(const Handle *tensor, int64_t **dims, uint64_t *ndim) {
  *ndim = (uint64_t)tensor->ndim;
  *dims = grown(NULL, sizeof tensor->dims); /* the caller's to free */
  memcpy(*dims, tensor->dims, sizeof tensor->dims);
  return refuse();
}
API void *aclCreateScalar(void *value, int dtype) {
  Handle *scalar = new_handle();
  say(&scalar->text, "%d=", dtype);
  say_values(&scalar->text, dtype, value, (size_t)whole_number_size(dtype));
  return scalar;
}
API void *aclCreateIntArray(const int64_t *values, uint64_t count) {
  Handle *array = new_handle();
  say(&array->text, "(");
  for (uint64_t i = 0; i < count; i++) say(&array->text, "%" PRId64 ",", values[i]);
  say(&array->text, ")");
  return array;
}
API void *aclCreateBoolArray(const uint8_t *values, uint64_t count) {
  Handle *array = new_handle();
  say(&array->text, "(");
  for (uint64_t i = 0; i < count; i++) say(&array->text, "%d,", values[i] != 0);
  say(&array->text, ")");
  return array;
}
API void *aclCreateFloatArray(const float *values, uint64_t count) {
  Handle *array = new_handle();
  say(&array->text, "(%" PRIu64 " floats)", count);
  return array;
}
static void *list_of(Handle *const *parts, uint64_t count) {
  Handle *list = new_handle();
  list->parts = grown(NULL, (count + 1) * sizeof *parts);
  list->count = count;
  say(&list->text, "{");
  for (uint64_t i = 0; i < count; i++) say(&list->text, "%s,", piece(list->parts[i] = parts[i]));
  say(&list->text, "}");
  return list;
}
API void *aclCreateTensorList(Handle *const *tensors, uint64_t count) { return list_of(tensors, count); }
API void *aclCreateScalarList(Handle *const *scalars, uint64_t count) { return list_of(scalars, count); }
#define DESTROY(name) API int name(Handle *handle) { drop_handle(handle); return 0; }
DESTROY(aclDestroyTensor) DESTROY(aclDestroyScalar) DESTROY(aclDestroyIntArray) DESTROY(aclDestroyBoolArray)
DESTROY(aclDestroyFloatArray) DESTROY(aclDestroyTensorList) DESTROY(aclDestroyScalarList)

/* ---- operators that are compiled online: aclop ---- */
typedef struct {
  void *data;
  size_t size;
} Buffer;

API void *aclCreateTensorDesc(int dtype, int ndim, const int64_t *dims, int format) {
  Handle *tensor = new_handle();
  tensor->format = format;
  describe_tensor(tensor, dims, ndim, dtype);
  return tensor;
}
API void aclDestroyTensorDesc(Handle *tensor) { drop_handle(tensor); }
API size_t aclGetTensorDescNumDims(const Handle *tensor) { return (size_t)tensor->ndim; }
API int aclGetTensorDescDimV2(const Handle *tensor, size_t index, int64_t *size) {
  if (index >= (size_t)tensor->ndim) return WRONG;
  *size = tensor->dims[index];
  return refuse(); /* see aclGetViewShape */
}
API int aclGetTensorDescType(const Handle *tensor) { return tensor->dtype; }
API int aclGetTensorDescFormat(const Handle *tensor) { return tensor->format; }
API int aclSetTensorPlaceMent(Handle *tensor, int place) { tensor->on_host = place == 1; return 0; } /* 2: not compiled in */
API int aclSetTensorConst(Handle *tensor, void *data, size_t size) {
  say_values(&tensor->text, tensor->dtype, data, size);
  return 0;
}
API void *aclCreateDataBuffer(void *data, size_t size) {
  Buffer *buffer = grown(NULL, sizeof *buffer);
  *buffer = (Buffer){data, size};
  return buffer;
}
API int aclDestroyDataBuffer(void *buffer) { free(buffer); return 0; }

API void *aclopCreateAttr(void) { return new_handle(); }
API void aclopDestroyAttr(Handle *attributes) { drop_handle(attributes); }
#define SET(kind, type, format) \
  API int aclopSetAttr##kind(Handle *to, const char *name, type value) { say(&to->text, " %s=" format, name, value); return 0; }
SET(Bool, uint8_t, "%d") SET(Int, int64_t, "%" PRId64) SET(String, const char *, "%s") SET(DataType, int, "%d")
API int aclopSetAttrFloat(Handle *to, const char *name, float value) { return 0; }
#define SET_LIST(kind, type, format)                                                                  \
  API int aclopSetAttrList##kind(Handle *to, const char *name, int count, const type *values) {       \
    say(&to->text, " %s=", name);                                                                     \
    for (int i = 0; i < count; i++) say(&to->text, format ",", values[i]);                            \
    return 0;                                                                                         \
  }
SET_LIST(Bool, uint8_t, "%d") SET_LIST(Int, int64_t, "%" PRId64) SET_LIST(DataType, int, "%d") SET_LIST(String, char *, "%s")
API int aclopSetAttrListFloat(Handle *to, const char *name, int count, const float *values) {
  say(&to->text, " %s=%d floats", name, count);
  return 0;
}
API int aclopSetAttrListListInt(Handle *to, const char *name, int lists, const int *counts, const int64_t *const *values) {
  say(&to->text, " %s=", name);
  for (int i = 0; i < lists; i++) {
    for (int j = 0; j < counts[i]; j++) say(&to->text, "%" PRId64 ",", values[i][j]);
    say(&to->text, ";");
  }
  return 0;
}

API int aclopCompileAndExecuteV2(const char *name, int inputs, Handle **in, Buffer **data, int outputs, Handle **out,
                                 Buffer **results, Handle *attributes, int engine, int flag, const char *path, void *stream) {
  Text key = {0};
  int random = draws(name);
  say(&key, "%s", name);
  for (int i = 0; i < inputs; i++) {
    say(&key, " %s", piece(in[i]));
    if (in[i] && in[i]->on_host && data && data[i] && !random) say_values(&key, in[i]->dtype, data[i]->data, data[i]->size);
  }
  for (int i = 0; i < outputs; i++) say(&key, " %s", piece(out[i]));
  if (attributes && !random) say(&key, "%s", piece(attributes));
  return launch(name, &key);
}
API int aclopCompileAndExecute(const char *name, int inputs, Handle **in, Buffer **data, int outputs, Handle **out,
                               Buffer **results, Handle *attributes, int engine, int flag, const char *path, void *stream) {
  return aclopCompileAndExecuteV2(name, inputs, in, data, outputs, out, results, attributes, engine, flag, path, stream);
}
/* Option 10 says whether operators are compiled online where there is a choice; this device's own answer is that of a 910B. */
static const char *option(int number) { return number == 10 ? "disable" : ""; }
API size_t aclGetCompileoptSize(int number) { return strlen(option(number)) + 1; }
API int aclGetCompileopt(int number, char *value, size_t size) {
  snprintf(value, size, "%s", option(number));
  return 0;
}
ZERO(aclSetCompileopt) ZERO(aclopSetCompileFlag)

/* ---- the device, its streams and events: all has always ended ---- */
static int current_device;
API const char *aclrtGetSocName(void) { return "Ascend910B1"; }
API const char *aclGetRecentErrMsg(void) { return "the CANN stand-in of a dry run: it has no values"; }
API int aclrtGetDeviceCount(uint32_t *count) { *count = 1; return 0; }
API int aclrtSetDevice(int device) { current_device = device; return 0; }
API int aclrtGetDevice(int *device) { *device = current_device; return 0; }
API int aclrtGetCurrentContext(void **context) { *context = &current_device; return 0; }
API int aclrtDeviceCanAccessPeer(int *can, int device, int peer) { *can = 0; return 0; }
API int aclGetDeviceCapability(uint32_t device, int what, int64_t *value) { *value = 0; return 0; }
API int aclrtGetSysParamOpt(int what, int64_t *value) { *value = 0; return 0; }
API int aclrtCtxGetSysParamOpt(int what, int64_t *value) { *value = 0; return 0; }
static int32_t next_stream;
static int make(void **object) { int32_t *made = grown(NULL, 64); *made = next_stream++; *object = made; return 0; }
API int aclrtCreateStream(void **stream) { return make(stream); }
API int aclrtCreateStreamWithConfig(void **stream, uint32_t priority, uint32_t flags) { return make(stream); }
API int aclrtStreamGetId(void *stream, int32_t *id) { *id = stream ? *(int32_t *)stream : 0; return 0; }
API int aclrtStreamQuery(void *stream, int *status) { *status = 0; return 0; } /* 0: complete */
API int aclrtDestroyStream(void *stream) { free(stream); return 0; }
API int aclrtDestroyStreamForce(void *stream) { free(stream); return 0; }
API int aclrtCreateEventWithFlag(void **event, uint32_t flags) { return make(event); }
API int aclrtCreateEventExWithFlag(void **event, uint32_t flags) { return make(event); }
API int aclrtQueryEventStatus(void *event, int *status) { *status = 1; return 0; } /* 1: complete */
API int aclrtQueryEventWaitStatus(void *event, int *status) { *status = 1; return 0; }
API int aclrtEventElapsedTime(float *milliseconds, void *start, void *end) { *milliseconds = 0; return 0; }
API int aclrtDestroyEvent(void *event) { free(event); return 0; }
ZERO(aclInit) ZERO(aclFinalize) ZERO(aclAppLog) ZERO(aclrtResetDevice) ZERO(aclrtSetCurrentContext) ZERO(aclrtDeviceEnablePeerAccess)
ZERO(aclrtRecordEvent) ZERO(aclrtResetEvent) ZERO(aclrtStreamWaitEvent) ZERO(aclrtSynchronizeEvent) ZERO(aclrtProcessReport)
ZERO(aclrtSynchronizeDevice) ZERO(aclrtSynchronizeStream) ZERO(aclrtSynchronizeStreamWithTimeout)
ZERO(aclrtSynchronizeDeviceWithTimeout) ZERO(aclrtSetStreamFailureMode) ZERO(aclrtSetOpWaitTimeout)
ZERO(aclrtSetOpExecuteTimeOut) ZERO(aclrtCtxSetSysParamOpt) ZERO(aclrtSetSysParamOpt) ZERO(aclrtSetDeviceSatMode) ZERO(aclrtPeekAtLastError) ZERO(aclrtGetLastError)
/* They name, place or dump what is not computed. */
ZERO(aclSetTensorDescName) ZERO(aclSetTensorFormat) ZERO(aclSetTensorShape) ZERO(aclmdlInitDump) ZERO(aclmdlSetDump)
ZERO(aclmdlFinalizeDump)

/* ---- memory ---- */
enum { DEVICE_TO_HOST = 2, UNREGISTERED = 2 };
static int allocate(void **block, size_t size) { return posix_memalign(block, 512, size ? size : 512) ? 207001 : 0; }
API int aclrtMalloc(void **block, size_t size, int policy) { return allocate(block, size); }
API int aclrtMallocAlign32(void **block, size_t size, int policy) { return allocate(block, size); }
API int aclrtMallocHost(void **block, size_t size) { return allocate(block, size); }
API int aclrtMallocHostWithCfg(void **block, uint64_t size, void *options) { return allocate(block, size); }
API int aclrtFree(void *block) { free(block); return 0; }
API int aclrtFreeHost(void *block) { free(block); return 0; }
API int aclrtGetMemInfo(int kind, size_t *unused, size_t *total) { *unused = *total = (size_t)64 << 30; return 0; }
API int aclrtPointerGetAttributes(const void *block, int *attributes) {
  attributes[0] = 0, attributes[1] = UNREGISTERED;
  return 0;
}
static int copy(void *target, size_t room, const void *source, size_t size, int kind) {
  if (size > room) return WRONG;
  if (kind == DEVICE_TO_HOST && !reads_allowed) return refuse();
  memcpy(target, source, size);
  return 0;
}
API int aclrtMemcpy(void *target, size_t room, const void *source, size_t size, int kind) {
  return copy(target, room, source, size, kind);
}
API int aclrtMemcpyAsync(void *target, size_t room, const void *source, size_t size, int kind, void *stream) {
  return copy(target, room, source, size, kind);
}
API int aclrtMemset(void *target, size_t room, int32_t value, size_t size) {
  memset(target, value, size < room ? size : room);
  return 0;
}
API int aclrtMemsetAsync(void *target, size_t room, int32_t value, size_t size, void *stream) {
  return aclrtMemset(target, room, value, size);
}

/* ---- what torch-npu cannot be loaded without, and a step does not call: an error if one does ---- */
#define REFUSE(name) API int name(void) { return REFUSED; }
/* Collectives: there is one device. */
REFUSE(HcclAllGather) REFUSE(HcclAllReduce) REFUSE(HcclBroadcast) REFUSE(HcclCommDestroy) REFUSE(HcclCommInitAll)
REFUSE(HcclCommInitRootInfo) REFUSE(HcclGetRootInfo) REFUSE(HcclRecv) REFUSE(HcclReduceScatter) REFUSE(HcclSend)
/* Virtual memory (expandable segments) and memory that processes share. */
REFUSE(aclrtReserveMemAddress) REFUSE(aclrtReleaseMemAddress) REFUSE(aclrtMallocPhysical) REFUSE(aclrtFreePhysical)
REFUSE(aclrtMapMem) REFUSE(aclrtUnmapMem) REFUSE(aclrtMemExportToShareableHandle) REFUSE(aclrtMemImportFromShareableHandle)
REFUSE(aclrtMemSetPidToShareableHandle) REFUSE(aclrtDeviceGetBareTgid) REFUSE(rtGetC2cCtrlAddr)
/* Kernels that a user has compiled. */
REFUSE(rtDevBinaryRegister) REFUSE(rtFunctionRegister) REFUSE(rtKernelLaunch) REFUSE(aclrtBinaryLoadFromData)
REFUSE(aclrtBinaryGetFunction) REFUSE(aclrtGetFunctionAddr)
/* A profiler that is not there takes any report. */
ZERO(MsprofRegisterCallback) ZERO(MsprofReportApi) ZERO(MsprofReportCompactInfo) ZERO(MsprofReportAdditionalInfo)
API uint64_t MsprofSysCycleTime(void) { return 0; }
API uint64_t MsprofGetHashId(const char *text, size_t length) { return 0; }
