/* A stand-in for libedgetpu: the exported functions of the real one, with devices that exist only in the environment.

   STANDIN_DEVICES    "usb=PATH,pci=PATH": what is listed, in that order. An open device is a lock on its PATH.
   STANDIN_HIDDEN     "hang", or so many listings show nothing at first, as while a device re-enumerates
   STANDIN_OPEN       "refuse", "crash", "hang", or how many attempts fail at first
   STANDIN_USER       the user to become before a device is opened, who has fewer rights
   STANDIN_PREPARE    "old": the model asks for a newer runtime
   STANDIN_COMPILER   what it was built with, as its version says
   STANDIN_INVOKE     "fail", "abort", "crash", "hang", or the microseconds that an invoke takes
   STANDIN_FIRST      the microseconds that each of the first STANDIN_SLOW (or 1) invokes takes

   The structures are the head of those in tensorflow/lite/core/c/common.h, as far as used and unchanged since 2.5;
   the padding at the end of the two that TFLite reads stands for newer members, all of which may be zero. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

typedef struct { int size; int data[]; } IntArray;
typedef struct Context Context;
typedef struct Delegate Delegate;

typedef struct {
  IntArray *inputs, *outputs;
} Node;

typedef struct {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  int (*prepare)(Context *, Node *);
  int (*invoke)(Context *, Node *);
  const char *(*profiling_string)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *padding[16];
} Registration;

struct Context {
  size_t tensors_size;
  int (*GetExecutionPlan)(Context *, IntArray **);
  void *tensors, *impl;
  void *ResizeTensor;
  void (*ReportError)(Context *, const char *, ...);
  void *AddTensors;
  int (*GetNodeAndRegistration)(Context *, int, Node **, Registration **);
  int (*ReplaceNodeSubsetsWithDelegateKernels)(Context *, Registration, const IntArray *, Delegate *);
};

struct Delegate {
  void *data;
  int (*Prepare)(Context *, Delegate *);
  void *CopyFromBufferHandle, *CopyToBufferHandle, *FreeBufferHandle;
  int64_t flags;
  void *padding[16];
  int lock;
};

struct device { int type; char *path; };

static const char *setting(const char *name) {
  const char *value = getenv(name);
  return value ? value : "";
}

static int is(const char *name, const char *value) { return strcmp(setting(name), value) == 0; }

static struct device *devices(size_t *count) {
  static struct device listed[16];
  char *rest = strdup(setting("STANDIN_DEVICES")), *item;
  *count = 0;
  while ((item = strsep(&rest, ",")) && *item) {
    listed[*count].type = strncmp(item, "usb=", 4) == 0;
    listed[(*count)++].path = item + 4;
  }
  return listed;
}

struct device *edgetpu_list_devices(size_t *count) {
  static int listings;
  struct device *listed = devices(count);
  if (is("STANDIN_HIDDEN", "hang")) for (;;) pause();
  if (listings++ < atoi(setting("STANDIN_HIDDEN"))) *count = 0;
  return listed;
}

void edgetpu_free_devices(struct device *list) { (void)list; }

const char *edgetpu_version(void) {
  static char version[256];
  const char *compiler = *setting("STANDIN_COMPILER") ? setting("STANDIN_COMPILER") : "stand-in";
  snprintf(version, sizeof version, "BuildLabel(COMPILER=%s,DATE=redacted,TIME=redacted), RuntimeVersion(14)", compiler);
  return version;
}

static void spin(long microseconds) {
  struct timespec start, now;
  clock_gettime(CLOCK_MONOTONIC, &start);
  do {
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while ((now.tv_sec - start.tv_sec) * 1000000000L + now.tv_nsec - start.tv_nsec < microseconds * 1000L);
}

static int invoke(Context *context, Node *node) {
  static int invokes;
  (void)node;
  int slow = *setting("STANDIN_SLOW") ? atoi(setting("STANDIN_SLOW")) : 1;
  if (is("STANDIN_INVOKE", "crash")) raise(SIGSEGV);
  if (is("STANDIN_INVOKE", "abort")) {
    fputs("F driver/usb/usb_driver.cc:802] [0-0] bulk out for header failed. Abort. Unknown: USB transfer error 1 "
          "[LibUsbDataOutCallback]\n", stderr);
    abort();
  }
  if (is("STANDIN_INVOKE", "hang")) for (;;) pause();
  if (is("STANDIN_INVOKE", "fail")) {
    context->ReportError(context, "USB transfer error 1 [LibUsbDataOutCallback]");
    return 1;
  }
  spin(atol(setting(invokes++ < slow ? "STANDIN_FIRST" : "STANDIN_INVOKE")));
  return 0;
}

static int prepare(Context *context, Delegate *delegate) {
  Registration kernel = {.invoke = invoke, .custom_name = "stand-in", .version = 1};
  IntArray *plan, *claimed;
  if (is("STANDIN_PREPARE", "old")) {
    context->ReportError(
        context, "Package requires runtime version (14), which is newer than this runtime version (12).");
    return 1;
  }
  if (context->GetExecutionPlan(context, &plan)) return 1;
  claimed = calloc(1 + plan->size, sizeof(int));
  for (int i = 0; i < plan->size; i++) {
    Node *node;
    Registration *registration;
    if (context->GetNodeAndRegistration(context, plan->data[i], &node, &registration)) return 1;
    if (registration->custom_name && strcmp(registration->custom_name, "edgetpu-custom-op") == 0)
      claimed->data[claimed->size++] = plan->data[i];
  }
  int status = context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, claimed, delegate);
  free(claimed);
  return status;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t options, void (*report)(const char *)) {
  static int attempts;
  size_t count, position = 0;
  struct device *listed = devices(&count);
  (void)report;
  if (is("STANDIN_OPEN", "crash")) raise(SIGSEGV);
  if (is("STANDIN_OPEN", "hang")) for (;;) pause();
  if (is("STANDIN_OPEN", "refuse") || attempts++ < atoi(setting("STANDIN_OPEN"))) return NULL;
  for (size_t i = 0; i < options; i++)
    if (strcmp(keys[i], "device") == 0) position = atoi(values[i] + (*values[i] == ':'));
  if (position >= count) return NULL;
  if (*setting("STANDIN_USER") && setuid(atoi(setting("STANDIN_USER")))) abort();
  int lock = open(listed[position].path, O_RDWR | O_CLOEXEC);
  if (lock < 0) return NULL;
  if (flock(lock, LOCK_EX | LOCK_NB)) return close(lock), NULL;
  Delegate *delegate = calloc(1, sizeof(Delegate));
  delegate->Prepare = prepare;
  delegate->flags = 1; /* allow dynamic tensors, or TFLite prepares the custom operator itself before it asks us */
  delegate->lock = lock;
  return delegate;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) {
  if (delegate) close(delegate->lock);
  free(delegate);
}
