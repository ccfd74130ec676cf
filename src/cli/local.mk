bin_PROGRAMS += sakiori
sakiori_SOURCES = \
	%D%/sakiori.c \
	%D%/cli.h %D%/cli.c \
	%D%/engine.h %D%/engine.c \
	%D%/cmd_plan.c \
	%D%/cmd_train.c \
	%D%/train_run.h %D%/train_run.c \
	%D%/train_log.h %D%/train_log.c \
	%D%/train_samples.h %D%/train_samples.c \
	%D%/cmd_eval.c \
	%D%/cmd_generate.c \
	%D%/cmd_tokenize.c \
	%D%/cmd_export.c %D%/export_lines.h %D%/export_lines.c \
	%D%/cmd_data.c \
	%D%/bench.h %D%/bench.c \
	%D%/cmd_bench.c %D%/bench_train.c %D%/bench_ops.c %D%/bench_variants.c \
	# end
sakiori_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
if DAEMON
sakiori_SOURCES += \
	%D%/daemon_commands.c \
	%D%/cmd_init.c \
	%D%/cmd_keygen.c \
	%D%/cmd_id.c \
	%D%/human.h %D%/human.c \
	%D%/admin_client.h %D%/admin_client.c \
	%D%/cmd_status.c \
	%D%/cmd_peers.c \
	%D%/cmd_rounds.c \
	%D%/cmd_pause.c \
	%D%/cmd_wait.c \
	%D%/cmd_log.c \
	%D%/cmd_reload.c \
	%D%/cmd_simulate.c \
	# end
# What the commands use, each archive before those it needs.
sakiori_LDADD = libsim.a libsite.a libgossip.a libnet.a $(PROTOBUF_C_LIBS) libconf.a $(LIBCONFIG_LIBS) $(TRAIN_LIBS)
else
sakiori_SOURCES += \
	%D%/no_daemon_commands.c \
	# end
sakiori_LDADD = libgossip.a $(TRAIN_LIBS)
endif
