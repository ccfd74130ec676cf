if HAVE_CHECK
if DAEMON
DAEMON_TEST_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) $(UV_CFLAGS) $(JANSSON_CFLAGS)

check_PROGRAMS += tests/check_metrics
tests_check_metrics_SOURCES = tests/check_metrics.c
tests_check_metrics_CPPFLAGS = $(DAEMON_TEST_CPPFLAGS)
tests_check_metrics_LDADD = libdaemon.a $(BASE_LIBS) $(CHECK_LIBS) -lm

check_PROGRAMS += tests/check_http
tests_check_http_SOURCES = tests/check_http.c
tests_check_http_CPPFLAGS = $(DAEMON_TEST_CPPFLAGS)
tests_check_http_LDADD = libdaemon.a $(MICROHTTPD_LIBS) $(UV_LIBS) $(BASE_LIBS) $(CHECK_LIBS)

check_PROGRAMS += tests/check_admin
tests_check_admin_SOURCES = tests/check_admin.c
tests_check_admin_CPPFLAGS = $(DAEMON_TEST_CPPFLAGS)
tests_check_admin_LDADD = libdaemon.a $(JANSSON_LIBS) $(UV_LIBS) $(BASE_LIBS) $(CHECK_LIBS)

check_PROGRAMS += tests/check_worker
tests_check_worker_SOURCES = tests/check_worker.c
tests_check_worker_CPPFLAGS = $(DAEMON_TEST_CPPFLAGS)
tests_check_worker_LDADD = libdaemon.a $(UV_LIBS) $(BASE_LIBS) $(CHECK_LIBS) -lm

check_PROGRAMS += tests/check_engine
tests_check_engine_SOURCES = tests/check_engine.c
tests_check_engine_CPPFLAGS = $(DAEMON_TEST_CPPFLAGS)
tests_check_engine_LDADD = libdaemon.a $(UV_LIBS) libconf.a $(LIBCONFIG_LIBS) $(TRAIN_LIBS) $(CHECK_LIBS) -lm

check_PROGRAMS += tests/check_gpu_meter
tests_check_gpu_meter_SOURCES = tests/check_gpu_meter.c
tests_check_gpu_meter_CPPFLAGS = $(DAEMON_TEST_CPPFLAGS)
tests_check_gpu_meter_LDADD = libdaemon.a $(UV_LIBS) $(BASE_LIBS) $(CHECK_LIBS) -lm
EXTRA_tests_check_gpu_meter_DEPENDENCIES = tests/lib/fake_nvml.so
CLEANFILES += tests/lib/fake_nvml.so
tests/lib/fake_nvml.so: tests/lib/fake_nvml.c
	@$(MKDIR_P) $(@D)
	$(AM_V_CCLD)$(CC) -O1 -shared -fPIC -o $@ $(srcdir)/tests/lib/fake_nvml.c

check_PROGRAMS += tests/check_store
tests_check_store_SOURCES = tests/check_store.c
tests_check_store_CPPFLAGS = $(DAEMON_TEST_CPPFLAGS) $(SQLITE_CFLAGS)
tests_check_store_LDADD = libdaemon.a $(SQLITE_LIBS) libgossip.a $(COMPUTE_LIBS) $(FORMATS_LIBS) $(CHECK_LIBS)
endif
endif

if DAEMON
check_PROGRAMS += tests/fuzz/fuzz_admin
tests_fuzz_fuzz_admin_SOURCES = tests/fuzz/fuzz_admin.c
tests_fuzz_fuzz_admin_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_fuzz_fuzz_admin_LDADD = libdaemon.a $(JANSSON_LIBS) $(BASE_LIBS)
if FUZZING
tests_fuzz_fuzz_admin_LDFLAGS = $(AM_LDFLAGS) -fsanitize=fuzzer
else
tests_fuzz_fuzz_admin_SOURCES += tests/fuzz/replay.c
endif
endif
EXTRA_DIST += tests/fuzz/corpus/admin tests/lib/fake_nvml.c
