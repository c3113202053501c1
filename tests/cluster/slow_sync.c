/* Preloaded into a node: while the file that SLOW_SYNC names exists, each fsync and fdatasync takes as many
 * milliseconds longer as stand in it, and adds a byte to the file SLOW_SYNC.count, so that the test can tell. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void wait_if_told(void)
{
    const char *path = getenv("SLOW_SYNC");
    char text[4096] = "";
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    long milliseconds = read(file, text, sizeof text - 1) > 0 ? atol(text) : 0;
    close(file);
    snprintf(text, sizeof text, "%s.count", path);
    file = open(text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file >= 0) {
        if (write(file, "x", 1) < 0)
            abort();
        close(file);
    }
    struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

int fsync(int file)
{
    wait_if_told();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}

int fdatasync(int file)
{
    wait_if_told();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(file);
}
