/* Bad days for one process: preloaded, it stands between the program and the C library and does what a control file says.

   The control file is mapped into memory, so a test gives orders, and counts what happened, without a signal or a
   restart. Its layout is `struct control`, which shim.py fills and reads. Paths are matched by a part of their name. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum kind { SYNC, WRITE, READ, KINDS };

struct rule {
    int64_t calls;       /* matching calls so far */
    int64_t fail_from;   /* the first call that fails; 0: none */
    int64_t fail_to;     /* the last one */
    int64_t error;       /* its errno */
    int64_t failed;      /* how many did */
    int64_t kill_at;     /* the call in which the process kills itself, a long write half done; 0: none */
    int64_t failed_by;   /* the thread of the last one that failed */
    int64_t again;       /* how many calls that thread made after it */
    char part[64];       /* of the file's path; empty: no file */
};

struct control {
    struct rule rules[KINDS];
    int64_t clock_offset;  /* seconds that the wall clock is ahead */
    int64_t clock_reads;   /* how often it was read while it was not right */
};

static struct control *control;

__attribute__((constructor)) static void map_control(void) {
    const char *path = getenv("FAULTS_CONTROL");
    int file = path ? open(path, O_RDWR) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) control = mapped;
    close(file);
}

#define REAL(type, name, ...)                                   \
    static type (*real)(__VA_ARGS__);                           \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, name)

static int concerns(const struct rule *rule, int file) {
    char link[64], path[4096];
    if (!rule->part[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, rule->part) != NULL;
}

enum verdict { GO_ON, FAIL, DIE };

static enum verdict judge(enum kind kind, int file) {
    if (!control || !concerns(&control->rules[kind], file)) return GO_ON;
    struct rule *rule = &control->rules[kind];
    int64_t call = __sync_add_and_fetch(&rule->calls, 1);
    int64_t thread = syscall(SYS_gettid);
    if (rule->failed_by == thread) __sync_add_and_fetch(&rule->again, 1);
    if (rule->kill_at && call == rule->kill_at) return DIE;
    if (!rule->fail_from || call < rule->fail_from || call > rule->fail_to) return GO_ON;
    __sync_add_and_fetch(&rule->failed, 1);
    rule->failed_by = thread;
    errno = (int)rule->error;
    return FAIL;
}

/* How much of a write is done when the process dies in it: a disk writes a sector whole or not at all. */
static size_t torn(size_t size) { return size > 512 ? size / 2 : 0; }

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

#define SYNCS(name)                                             \
    int name(int file) {                                        \
        REAL(int, #name, int);                                  \
        switch (judge(SYNC, file)) {                            \
            case DIE: die(); return -1;                         \
            case FAIL: return -1;                               \
            default: return real(file);                         \
        }                                                       \
    }

SYNCS(fsync)
SYNCS(fdatasync)

#define WRITES(name, offset_type)                                                        \
    ssize_t name(int file, const void *data, size_t size, offset_type offset) {          \
        REAL(ssize_t, #name, int, const void *, size_t, offset_type);                    \
        switch (judge(WRITE, file)) {                                                    \
            case DIE: (void)!real(file, data, torn(size), offset); die(); return -1;       \
            case FAIL: return -1;                                                        \
            default: return real(file, data, size, offset);                              \
        }                                                                                \
    }

WRITES(pwrite, off_t)
WRITES(pwrite64, off64_t)

ssize_t write(int file, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    switch (judge(WRITE, file)) {
        case DIE: (void)!real(file, data, torn(size)); die(); return -1;
        case FAIL: return -1;
        default: return real(file, data, size);
    }
}

#define READS(name, offset_type)                                                         \
    ssize_t name(int file, void *data, size_t size, offset_type offset) {                \
        REAL(ssize_t, #name, int, void *, size_t, offset_type);                          \
        return judge(READ, file) == FAIL ? -1 : real(file, data, size, offset);          \
    }

READS(pread, off_t)
READS(pread64, off64_t)

ssize_t read(int file, void *data, size_t size) {
    REAL(ssize_t, "read", int, void *, size_t);
    return judge(READ, file) == FAIL ? -1 : real(file, data, size);
}

static int64_t clock_offset(void) {
    int64_t offset = control ? control->clock_offset : 0;
    if (offset) __sync_add_and_fetch(&control->clock_reads, 1);
    return offset;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int failed = real(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += clock_offset();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    REAL(int, "gettimeofday", struct timeval *, void *);
    int failed = real(now, zone);
    if (!failed) now->tv_sec += clock_offset();
    return failed;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}
