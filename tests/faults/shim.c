/* Loaded into the gateway by the fault suite: names that are gone, a disk that is full, a clock that jumps.
   What is wrong now stands in the file $OTARI_FAULTS, which both sides have mapped. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct wrong {
    volatile int64_t clock_offset_s;
    volatile int64_t disk_is_full;
    volatile int64_t names_are_gone;
    /* Told by this side: how often each was met. */
    volatile int64_t clock_met;
    volatile int64_t disk_met;
    volatile int64_t names_met;
};

static struct wrong none;
static struct wrong *wrong = &none;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("OTARI_FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof *wrong, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED)
        wrong = at;
    close(fd);
}

#define REAL(type, name, ...)                                                                                          \
    static type (*real)(__VA_ARGS__);                                                                                  \
    if (!real)                                                                                                         \
        *(void **)&real = dlsym(RTLD_NEXT, name);

static int is_full(int fd) {
    struct stat about;
    if (!wrong->disk_is_full || fstat(fd, &about) != 0 || !S_ISREG(about.st_mode))
        return 0;
    wrong->disk_met++;
    return 1;
}

ssize_t write(int fd, const void *from, size_t length) {
    REAL(ssize_t, "write", int, const void *, size_t)
    if (is_full(fd)) {
        errno = ENOSPC;
        return -1;
    }
    return real(fd, from, length);
}

#define PWRITE(name)                                                                                                   \
    ssize_t name(int fd, const void *from, size_t length, off_t at) {                                                  \
        REAL(ssize_t, #name, int, const void *, size_t, off_t)                                                         \
        if (is_full(fd)) {                                                                                             \
            errno = ENOSPC;                                                                                            \
            return -1;                                                                                                 \
        }                                                                                                              \
        return real(fd, from, length, at);                                                                             \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define TRUNCATE(name)                                                                                                 \
    int name(int fd, off_t length) {                                                                                   \
        REAL(int, #name, int, off_t)                                                                                   \
        struct stat about;                                                                                             \
        if (wrong->disk_is_full && fstat(fd, &about) == 0 && about.st_size < length && is_full(fd)) {                  \
            errno = ENOSPC;                                                                                            \
            return -1;                                                                                                 \
        }                                                                                                              \
        return real(fd, length);                                                                                       \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int)
    if (is_full(fd)) {
        errno = ENOSPC;
        return -1;
    }
    return real(fd, parts, count);
}

int fallocate(int fd, int mode, off_t from, off_t length) {
    REAL(int, "fallocate", int, int, off_t, off_t)
    if (is_full(fd)) {
        errno = ENOSPC;
        return -1;
    }
    return real(fd, mode, from, length);
}

int posix_fallocate(int fd, off_t from, off_t length) {
    REAL(int, "posix_fallocate", int, off_t, off_t)
    return is_full(fd) ? ENOSPC : real(fd, from, length);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(int, "clock_gettime", clockid_t, struct timespec *)
    int done = real ? real(clock, now) : (int)syscall(SYS_clock_gettime, clock, now);
    if (done == 0 && wrong->clock_offset_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        now->tv_sec += wrong->clock_offset_s;
        wrong->clock_met++;
    }
    return done;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
        return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into)
        *into = now.tv_sec;
    return now.tv_sec;
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    REAL(int, "getaddrinfo", const char *, const char *, const struct addrinfo *, struct addrinfo **)
    if (wrong->names_are_gone) {
        wrong->names_met++;
        return EAI_AGAIN;
    }
    return real(name, service, hints, found);
}
