# What people copy from; `sakiori init` writes a configuration of one's own.
exampledir = $(docdir)/examples
dist_example_DATA = \
	%D%/sakiorid.conf \
	systemd/sakiorid-gpu.conf \
	# end
# bash finds a completion by the name of its command.
completiondir = $(datadir)/bash-completion/completions
EXTRA_DIST += %D%/sakiori.bash-completion
install-data-local:
	$(MKDIR_P) '$(DESTDIR)$(completiondir)'
	$(INSTALL_DATA) '$(srcdir)/%D%/sakiori.bash-completion' '$(DESTDIR)$(completiondir)/sakiori'
uninstall-local:
	rm -f '$(DESTDIR)$(completiondir)/sakiori'
