/* libcuda.so.1 where there is no GPU: the calls that allstop makes, backed by host memory.
 *
 * FAKE_CUDA names a directory. Its file `settings` is read anew at every call, a line each:
 *     CALL CODE             CALL fails with CODE
 *     attribute N VALUE     what cuDeviceGetAttribute answers
 *     lost CODE             every call that needs a context fails with CODE
 *     slow MICROSECONDS     a registration takes that long
 *     forgetful 1           a forked child is not told that CUDA is not its own
 * Every call appends to its file `calls`: pid, name, arguments, result.
 *
 * As on a device: nothing works before cuInit, nor in a child forked after it; calls need a
 * current context; a page registers once; fresh device memory holds garbage; where attribute 91
 * is 0 the device sees registered memory at another address, and goes on seeing the pages that
 * were registered, whatever is mapped there later; while a kernel runs, allocations and blocking
 * streams wait for it.
 *
 * fake_kernel_start and fake_kernel_done are a kernel: a thread that polls a word.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MAX_RANGES = 256, BLOCKING = 0x51, NON_BLOCKING = 0x52 };
enum { INVALID_VALUE = 1, NOT_INITIALIZED = 3, INVALID_DEVICE = 101, INVALID_CONTEXT = 201,
       ALREADY_REGISTERED = 712, NOT_REGISTERED = 713 };

struct range { char *host, *device; size_t size; };

static pid_t initialised_by;
static __thread void *current;
static struct range ranges[MAX_RANGES];
static int n_ranges, kernels;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t kernel_ended = PTHREAD_COND_INITIALIZER;

static FILE *settings(void) {
    char path[4096];
    const char *home = getenv("FAKE_CUDA");
    if (!home) return NULL;
    snprintf(path, sizeof path, "%s/settings", home);
    return fopen(path, "re");
}

static int setting(const char *name, int otherwise) {
    char line[256], word[128];
    int value;
    FILE *file = settings();
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "%127s %d", word, &value) == 2 && !strcmp(word, name)) otherwise = value;
    if (file) fclose(file);
    return otherwise;
}

static int attribute(int wanted, int otherwise) {
    char line[256];
    int which, value;
    FILE *file = settings();
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "attribute %d %d", &which, &value) == 2 && which == wanted)
            otherwise = value;
    if (file) fclose(file);
    return otherwise;
}

static int record(int code, const char *format, ...) {
    char path[4096], line[512];
    const char *home = getenv("FAKE_CUDA");
    if (!home) return code;
    snprintf(path, sizeof path, "%s/calls", home);
    int n = snprintf(line, sizeof line, "%d ", getpid());
    va_list arguments;
    va_start(arguments, format);
    n += vsnprintf(line + n, sizeof line - n, format, arguments);
    va_end(arguments);
    n += snprintf(line + n, sizeof line - n, " = %d\n", code);
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) {
        if (write(fd, line, n) != n) abort();
        close(fd);
    }
    return code;
}

static int initialised(void) {
    return initialised_by == getpid() || (initialised_by && setting("forgetful", 0));
}

static int not_ready(const char *name) {
    return initialised() ? setting(name, 0) : NOT_INITIALIZED;
}

static int no_context(const char *name) {
    int code = initialised() ? setting("lost", 0) : NOT_INITIALIZED;
    return code ? code : !current ? INVALID_CONTEXT : setting(name, 0);
}

static void wait_for_kernels(void) {
    pthread_mutex_lock(&lock);
    while (kernels) pthread_cond_wait(&kernel_ended, &lock);
    pthread_mutex_unlock(&lock);
}

int cuGetErrorName(int code, const char **name) {
    static const struct { int code; const char *name; } known[] = {
        {0, "CUDA_SUCCESS"}, {1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"},
        {3, "CUDA_ERROR_NOT_INITIALIZED"}, {46, "CUDA_ERROR_DEVICE_UNAVAILABLE"},
        {100, "CUDA_ERROR_NO_DEVICE"}, {101, "CUDA_ERROR_INVALID_DEVICE"},
        {201, "CUDA_ERROR_INVALID_CONTEXT"}, {600, "CUDA_ERROR_NOT_READY"}, {712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"},
        {713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED"}, {719, "CUDA_ERROR_LAUNCH_FAILED"},
        {801, "CUDA_ERROR_NOT_SUPPORTED"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].code == code) return *name = known[i].name, 0;
    return *name = NULL, INVALID_VALUE;
}

int cuDriverGetVersion(int *version) {
    *version = setting("version", 13000);
    return 0;
}

int cuInit(unsigned flags) {
    int code = setting("cuInit", 0);
    if (initialised_by && initialised_by != getpid()) code = NOT_INITIALIZED;
    if (!code) initialised_by = getpid();
    return record(code, "cuInit %u", flags);
}

int cuDeviceGetCount(int *count) {
    *count = setting("devices", 1);
    return not_ready("cuDeviceGetCount");
}

int cuDeviceGetAttribute(int *value, int which, int device) {
    static const int usual[][2] = {{16, 132}, {39, 2048}, {75, 9}, {88, 1}, {91, 1}, {99, 1},
                                   {106, 32}, {113, 1}};
    int code = not_ready("cuDeviceGetAttribute");
    if (!code && device) code = INVALID_DEVICE;
    *value = 0;
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        if (usual[i][0] == which) *value = usual[i][1];
    *value = attribute(which, *value);
    return code;
}

int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    for (int i = 0; i < 16; i++) uuid[i] = (unsigned char)(17 * i + device);
    return not_ready("cuDeviceGetUuid_v2");
}

int cuCtxGetCurrent(void **context) {
    *context = NULL;
    int code = not_ready("cuCtxGetCurrent");
    if (!code) *context = current;
    return code;
}

int cuCtxSetCurrent(void *context) {
    int code = not_ready("cuCtxSetCurrent");
    if (!code) current = context;
    return record(code, "cuCtxSetCurrent");
}

int cuCtxGetDevice(int *device) {
    *device = 0;
    return no_context("cuCtxGetDevice");
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    int code = not_ready("cuDevicePrimaryCtxRetain");
    if (!code && device) code = INVALID_DEVICE;
    *context = code ? NULL : (void *)0xC0;
    return record(code, "cuDevicePrimaryCtxRetain %d", device);
}

static int pin(char *host, size_t size) {
    if (!size) return INVALID_VALUE;
    for (int i = 0; i < n_ranges; i++)
        if (host < ranges[i].host + ranges[i].size && ranges[i].host < host + size)
            return ALREADY_REGISTERED;
    char *device = host;
    if (!attribute(91, 1)) {  /* a second mapping of the same pages */
        device = mremap(host, 0, size, MREMAP_MAYMOVE);
        if (device == MAP_FAILED) return INVALID_VALUE;
    }
    if (n_ranges == MAX_RANGES) abort();
    ranges[n_ranges++] = (struct range){host, device, size};
    return 0;
}

int cuMemHostRegister_v2(void *host, size_t size, unsigned flags) {
    int code = no_context("cuMemHostRegister_v2"), pause = setting("slow", 0);
    if (pause) usleep(pause);
    pthread_mutex_lock(&lock);
    if (!code) code = pin(host, size);
    pthread_mutex_unlock(&lock);
    return record(code, "cuMemHostRegister_v2 %p %zu %u", host, size, flags);
}

int cuMemHostUnregister(void *host) {
    int code = no_context("cuMemHostUnregister");
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < n_ranges && ranges[i].host != host) i++;
    if (!code && i == n_ranges) code = NOT_REGISTERED;
    if (!code) ranges[i] = ranges[--n_ranges];
    pthread_mutex_unlock(&lock);
    return record(code, "cuMemHostUnregister %p", host);
}

int cuMemHostGetDevicePointer_v2(uint64_t *pointer, void *host, unsigned flags) {
    int code = no_context("cuMemHostGetDevicePointer_v2");
    (void)flags;
    *pointer = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < n_ranges; i++) {
        size_t offset = (char *)host - ranges[i].host;
        if ((char *)host >= ranges[i].host && offset < ranges[i].size)
            *pointer = (uint64_t)(ranges[i].device + offset);
    }
    pthread_mutex_unlock(&lock);
    return code ? code : *pointer ? 0 : INVALID_VALUE;
}

int cuMemAlloc_v2(uint64_t *pointer, size_t size) {
    int code = no_context("cuMemAlloc_v2");
    wait_for_kernels();
    *pointer = (uint64_t)malloc(size);
    memset((void *)*pointer, 0xA5, size);
    return record(code, "cuMemAlloc_v2 %zu", size);
}

int cuMemHostAlloc(void **host, size_t size, unsigned flags) {
    int code = no_context("cuMemHostAlloc");
    (void)flags;
    wait_for_kernels();
    *host = malloc(size);
    memset(*host, 0xA5, size);
    return record(code, "cuMemHostAlloc %zu", size);
}

int cuStreamCreate(void **stream, unsigned flags) {
    *stream = (void *)(uintptr_t)(flags & 1 ? NON_BLOCKING : BLOCKING);
    return record(no_context("cuStreamCreate"), "cuStreamCreate %u", flags);
}

int cuEventQuery(void *event) { return (void)event, no_context("cuEventQuery"); }

int cuStreamQuery(void *stream) { return (void)stream, no_context("cuStreamQuery"); }

int cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t size, void *stream) {
    int code = no_context("cuMemcpyHtoDAsync_v2");
    if (stream != (void *)NON_BLOCKING) wait_for_kernels();
    if (!code) memcpy((void *)target, source, size);
    return record(code, "cuMemcpyHtoDAsync_v2 %zu", size);
}

int cuStreamSynchronize(void *stream) {
    if (stream != (void *)NON_BLOCKING) wait_for_kernels();
    return record(no_context("cuStreamSynchronize"), "cuStreamSynchronize");
}

/* -- a kernel ----------------------------------------------------------------- */

struct kernel { volatile int64_t *word; volatile int done; };

static void *poll_word(void *argument) {
    struct kernel *kernel = argument;
    const struct timespec tick = {0, 20000};
    while (!*kernel->word) nanosleep(&tick, NULL);
    kernel->done = 1;
    pthread_mutex_lock(&lock);
    kernels--;
    pthread_cond_broadcast(&kernel_ended);
    pthread_mutex_unlock(&lock);
    return NULL;
}

void *fake_kernel_start(uint64_t word) {
    struct kernel *kernel = calloc(1, sizeof *kernel);
    pthread_t thread;
    kernel->word = (volatile int64_t *)word;
    pthread_mutex_lock(&lock);
    kernels++;
    pthread_mutex_unlock(&lock);
    if (pthread_create(&thread, NULL, poll_word, kernel)) abort();
    pthread_detach(thread);
    return kernel;
}

int fake_kernel_done(void *kernel) { return ((struct kernel *)kernel)->done; }
