if DAEMON
noinst_LIBRARIES += libdaemon.a
libdaemon_a_SOURCES = \
	%D%/metrics.h %D%/metrics.c \
	%D%/http.h %D%/http.c \
	%D%/log_ring.h %D%/log_ring.c \
	%D%/admin.h %D%/admin.c %D%/admin_interface.c \
	%D%/admin_socket.h %D%/admin_socket.c \
	%D%/gpu_meter.h %D%/gpu_meter.c \
	%D%/lane.h %D%/lane.c \
	%D%/worker.h %D%/worker.c \
	%D%/engine.h %D%/engine.c \
	%D%/store.h %D%/store.c \
	%D%/store_image.h %D%/store_image.c \
	%D%/parts.h \
	%D%/answers.c \
	%D%/publish.c %D%/publish_best.c \
	%D%/reload.c \
	%D%/site_effects.c \
	%D%/daemon.h %D%/daemon.c \
	# end
libdaemon_a_CPPFLAGS = $(AM_CPPFLAGS) $(UV_CFLAGS) $(SQLITE_CFLAGS) $(MICROHTTPD_CFLAGS) $(JANSSON_CFLAGS) $(SYSTEMD_CFLAGS)

# Which commit this is, for sakiori_build_info and status; rewritten only when it changed.
BUILT_SOURCES += %D%/commit.h
CLEANFILES += %D%/commit.h
%D%/libdaemon_a-answers.$(OBJEXT): %D%/commit.h
%D%/commit.h: no-such-file
	@$(MKDIR_P) $(@D)
	@commit=release; \
	if test -e $(top_srcdir)/.git; then commit=`cd $(top_srcdir) && git rev-parse --short=12 HEAD 2>/dev/null || echo unknown`; fi; \
	line="#define SAKIORI_COMMIT \"$$commit\""; \
	echo "$$line" | cmp -s - $@ || echo "$$line" >$@
no-such-file:

sbin_PROGRAMS += sakiorid
sakiorid_SOURCES = %D%/main.c
sakiorid_LDADD = $(DAEMON_LIBS)
endif
