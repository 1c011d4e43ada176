/* A libnvidia-ml.so.1 that answers from a text file, which a test rewrites while programs ask.
 *
 * The file's name is in FAKE_NVML; it is read anew at every call. One fact a line:
 *
 *   init 18                         nvmlInit returns this error
 *   driver 580.142                  cuda 13000
 *   gpu uuid=GPU-a name=Fake_H100 total=1000 used=100 reserved=10 minor=0 persistence=1 mig=0
 *       error=15                    (same line) each call about this device returns it
 *   instance of=0 uuid=MIG-a name=… total=500 used=50        a MIG instance of the first gpu
 *   process on=GPU-a pid=12 bytes=34      bytes=none: the driver does not say
 *       alive=1                     (same line) the bytes are used, and listed, while it lives
 *   error WHAT 3                    calls of one kind return this error
 *   block WHAT                      calls of one kind wait until the line is gone
 *
 * WHAT is init, memory, memory_v2, processes, processes_v3, count, uuid, persistence, mig, minor.
 * Once a device's processes have been listed, there is a file of this name with ".listed" added.
 * A test replaces the file by rename(2): a call reads the old one or the new one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    OK = 0, INVALID = 2, NOT_FOUND = 6, TOO_SMALL = 7, DRIVER_NOT_LOADED = 9,
    FUNCTION_NOT_FOUND = 13,
};
enum { MOST = 64, LINE = 512, LOOK_US = 2000 };
#define SAYS_NOTHING 0xffffffffffffffffULL

typedef unsigned long long u64;
typedef struct { int kind, of, error; char uuid[96], name[96]; u64 total, used, reserved;
                 unsigned minor, persistence, mig; } Device;   /* kind 1: gpu, 2: instance */
typedef struct { char on[96]; unsigned pid; u64 bytes; } Process;
typedef struct {
    int init, n_devices, n_processes, n_faults;
    char driver[80];
    int cuda;
    Device devices[MOST];
    Process processes[MOST];
    struct { char what[32]; int error; } faults[MOST];          /* error -1: block */
} State;

static void word(const char *line, const char *key, char *to, size_t size)
{
    char wanted[40];
    snprintf(wanted, sizeof wanted, " %s=", key);
    const char *at = strstr(line, wanted);
    if (!at) return;
    at += strlen(wanted);
    size_t n = strcspn(at, " \n");
    if (n >= size) n = size - 1;
    memcpy(to, at, n);
    to[n] = 0;
    for (char *c = to; *c; c++) if (*c == '_') *c = ' ';
}

static u64 number(const char *line, const char *key, u64 otherwise)
{
    char text[40] = "";
    word(line, key, text, sizeof text);
    if (!*text) return otherwise;
    return strcmp(text, "none") ? strtoull(text, NULL, 10) : SAYS_NOTHING;
}

static void take_device(State *s, const char *line, int kind)
{
    if (s->n_devices == MOST) return;
    Device *d = &s->devices[s->n_devices++];
    d->kind = kind;
    d->of = (int)number(line, "of", 0);
    d->error = (int)number(line, "error", 0);
    strcpy(d->uuid, "GPU-0");
    strcpy(d->name, "Fake GPU");
    word(line, "uuid", d->uuid, sizeof d->uuid);
    word(line, "name", d->name, sizeof d->name);
    d->total = number(line, "total", 0);
    d->used = number(line, "used", 0);
    d->reserved = number(line, "reserved", 0);
    d->minor = (unsigned)number(line, "minor", 0);
    d->persistence = (unsigned)number(line, "persistence", 0);
    d->mig = (unsigned)number(line, "mig", 0);
}

/* A zombie has closed its descriptors: its memory is free. */
static int lives(unsigned pid)
{
    char name[40], state = 0;
    snprintf(name, sizeof name, "/proc/%u/stat", pid);
    FILE *file = fopen(name, "re");
    if (!file) return 0;
    if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1) state = 'Z';
    fclose(file);
    return state != 'Z' && state != 'X';
}

static void take_process(State *s, const char *line)
{
    Process p = {"", (unsigned)number(line, "pid", 0), number(line, "bytes", 0)};
    word(line, "on", p.on, sizeof p.on);
    if (number(line, "alive", 0)) {
        if (!lives(p.pid)) return;
        for (int i = 0; i < s->n_devices; i++)
            if (!strcmp(s->devices[i].uuid, p.on)) s->devices[i].used += p.bytes;
    }
    s->processes[s->n_processes++] = p;
}

/* 0 when the file cannot be read: there is no driver. */
static int look(State *s)
{
    memset(s, 0, sizeof *s);
    strcpy(s->driver, "580.142");
    s->cuda = 13000;
    const char *name = getenv("FAKE_NVML");
    FILE *file = name ? fopen(name, "re") : NULL;
    if (!file) return 0;
    char line[LINE], what[32];
    int error;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "init %d", &s->init) == 1) continue;
        if (sscanf(line, "driver %79s", s->driver) == 1) continue;
        if (sscanf(line, "cuda %d", &s->cuda) == 1) continue;
        if (!strncmp(line, "gpu ", 4)) take_device(s, line, 1);
        else if (!strncmp(line, "instance ", 9)) take_device(s, line, 2);
        else if (!strncmp(line, "process ", 8) && s->n_processes < MOST) {
            take_process(s, line);
        } else if (sscanf(line, "error %31s %d", what, &error) == 2 && s->n_faults < MOST) {
            strcpy(s->faults[s->n_faults].what, what);
            s->faults[s->n_faults++].error = error;
        } else if (sscanf(line, "block %31s", what) == 1 && s->n_faults < MOST) {
            strcpy(s->faults[s->n_faults].what, what);
            s->faults[s->n_faults++].error = -1;
        }
    }
    fclose(file);
    return 1;
}

/* Read the state; wait while calls of this kind are to block; return the error they are to give. */
static int begin(State *s, const char *what)
{
    for (;;) {
        if (!look(s)) return DRIVER_NOT_LOADED;
        int error = OK;
        for (int i = 0; i < s->n_faults; i++)
            if (!strcmp(s->faults[i].what, what)) error = s->faults[i].error;
        if (error != -1) return error;
        usleep(LOOK_US);
    }
}

static int asked(State *s, const char *what, const void *handle, Device **found)
{
    int error = begin(s, what);
    if (error) return error;
    size_t at = (size_t)handle;
    if (at < 1 || at > (size_t)s->n_devices) return INVALID;
    *found = &s->devices[at - 1];
    return (*found)->error;
}

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    State s;
    int error = begin(&s, "init");
    return error ? error : s.init;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code)
{
    static __thread char text[40];
    snprintf(text, sizeof text, "error %d", code);
    return text;
}

int nvmlSystemGetDriverVersion(char *to, unsigned size)
{
    State s;
    if (!look(&s)) return DRIVER_NOT_LOADED;
    snprintf(to, size, "%s", s.driver);
    return OK;
}

int nvmlSystemGetCudaDriverVersion_v2(int *to)
{
    State s;
    if (!look(&s)) return DRIVER_NOT_LOADED;
    *to = s.cuda;
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *to)
{
    State s;
    int error = begin(&s, "count");
    *to = 0;
    for (int i = 0; i < s.n_devices; i++) *to += s.devices[i].kind == 1;
    return error;
}

static void *handle_of(int at) { return (void *)(size_t)(at + 1); }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **to)
{
    State s;
    int error = begin(&s, "count");
    if (error) return error;
    for (int i = 0; i < s.n_devices; i++)
        if (s.devices[i].kind == 1 && index-- == 0) {
            *to = handle_of(i);
            return s.devices[i].error;
        }
    return INVALID;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **to)
{
    State s;
    int error = begin(&s, "uuid");
    if (error) return error;
    for (int i = 0; i < s.n_devices; i++)
        if (!strcmp(s.devices[i].uuid, uuid)) {
            *to = handle_of(i);
            return s.devices[i].error;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(const void *handle, char *to, unsigned size)
{
    State s;
    Device *d;
    int error = asked(&s, "uuid", handle, &d);
    if (!error) snprintf(to, size, "%s", d->uuid);
    return error;
}

int nvmlDeviceGetName(const void *handle, char *to, unsigned size)
{
    State s;
    Device *d;
    int error = asked(&s, "uuid", handle, &d);
    if (!error) snprintf(to, size, "%s", d->name);
    return error;
}

int nvmlDeviceGetMinorNumber(const void *handle, unsigned *to)
{
    State s;
    Device *d;
    int error = asked(&s, "minor", handle, &d);
    if (!error) *to = d->minor;
    return error;
}

int nvmlDeviceGetPersistenceMode(const void *handle, unsigned *to)
{
    State s;
    Device *d;
    int error = asked(&s, "persistence", handle, &d);
    if (!error) *to = d->persistence;
    return error;
}

/* -- memory: version 1 counts what the driver keeps for itself as used ------------------------ */

typedef struct { u64 total, free, used; } Memory1;
typedef struct { unsigned version; u64 total, reserved, free, used; } Memory2;

int nvmlDeviceGetMemoryInfo(const void *handle, Memory1 *to)
{
    State s;
    Device *d;
    int error = asked(&s, "memory", handle, &d);
    if (error) return error;
    u64 used = d->used + d->reserved;
    *to = (Memory1){d->total, d->total - used, used};
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(const void *handle, Memory2 *to)
{
    State s;
    Device *d;
    int error = asked(&s, "memory", handle, &d);
    if (!error) error = begin(&s, "memory_v2");
    if (error) return error;
    unsigned version = to->version;
    *to = (Memory2){version, d->total, d->reserved, d->total - d->used - d->reserved, d->used};
    return OK;
}

/* -- processes ---------------------------------------------------------------------------------- */

typedef struct { unsigned pid; u64 bytes; unsigned gpu_instance, compute_instance; } Info;

static void listed(void)
{
    char name[LINE];
    snprintf(name, sizeof name, "%s.listed", getenv("FAKE_NVML"));
    FILE *file = fopen(name, "we");
    if (file) fclose(file);
}

static int list(const void *handle, unsigned *count, Info *to, const char *version)
{
    State s;
    Device *d;
    int error = asked(&s, "processes", handle, &d);
    if (!error) error = begin(&s, version);
    if (error) return error;
    unsigned room = to ? *count : 0, n = 0;
    for (int i = 0; i < s.n_processes; i++) {
        if (strcmp(s.processes[i].on, d->uuid)) continue;
        if (n < room) to[n] = (Info){s.processes[i].pid, s.processes[i].bytes, -1u, -1u};
        n++;
    }
    *count = n;
    if (n > room) return TOO_SMALL;
    listed();
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(const void *handle, unsigned *count, Info *to)
{
    return list(handle, count, to, "processes_v3");
}

int nvmlDeviceGetComputeRunningProcesses_v2(const void *handle, unsigned *count, Info *to)
{
    return list(handle, count, to, "processes_v2");
}

/* -- MIG ------------------------------------------------------------------------------------------ */

int nvmlDeviceGetMigMode(const void *handle, unsigned *current, unsigned *pending)
{
    State s;
    Device *d;
    int error = asked(&s, "mig", handle, &d);
    if (error) return error;
    *current = *pending = d->mig;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(const void *handle, unsigned *to)
{
    State s;
    Device *d;
    int error = asked(&s, "mig", handle, &d);
    if (!error) *to = 7;
    return error;
}

int nvmlDeviceGetMigDeviceHandleByIndex(const void *handle, unsigned index, void **to)
{
    State s;
    Device *d;
    int error = asked(&s, "mig", handle, &d);
    if (error) return error;
    int parent = -1, gpus = 0;
    for (int i = 0; i < s.n_devices; i++)
        if (s.devices[i].kind == 1) {
            if (&s.devices[i] == d) parent = gpus;
            gpus++;
        }
    for (int i = 0; i < s.n_devices; i++)
        if (s.devices[i].kind == 2 && s.devices[i].of == parent && index-- == 0) {
            *to = handle_of(i);
            return OK;
        }
    return NOT_FOUND;
}
