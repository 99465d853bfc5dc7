# SPDX-License-Identifier: GPL-2.0
#
# Every command that a person needs. `make help` lists them.
#
# Two folders are written to, both ignored by git:
#
#   CACHE   what is downloaded or takes long: the Debian tree, the kernel trees,
#           cargo's registry. Checkouts may share it.
#   BUILD   what is made of this checkout's sources.

# Anything but a plain `make -C KDIR` of the kernel's own comes this way.
MAKEFLAGS += --no-print-directory
CACHE ?= $(CURDIR)/.cache
BUILD ?= $(CURDIR)/build
export CACHE BUILD

# Run a command in the Debian tree, where the checkout is /carisma.
chroot := tools/chroot

.DEFAULT_GOAL := modules

##@ Set up

.PHONY: setup
setup: ## make the Debian tree and the prepared kernel tree (once, a few minutes)
	@tools/setup host tree packages kernel

.PHONY: update
update: ## look for a newer stock kernel and newer packages
	@rm -f $(CACHE)/stamps/packages
	@$(MAKE) setup

##@ Build

# With KDIR=, the modules are built by the host's own tools against that tree,
# to load into the kernel it is prepared for; without, in the Debian tree for
# the stock kernel.
.PHONY: modules
ifdef KDIR
modules:
	@tools/modules $(KDIR) $(BUILD)/modules
else
modules: setup ## build both modules (KDIR=... builds against your own kernel tree)
	@$(chroot) tools/modules /cache/kernel/tree /build/modules
endif

.PHONY: check
ifdef KDIR
check:
	@tools/check $(KDIR) $(RELEASE) && echo "check: $(KDIR) will do."
else
check: setup ## say what keeps the modules from being built (KDIR=..., RELEASE=...)
	@$(chroot) tools/check /cache/kernel/tree $$(cat $(CACHE)/root/etc/carisma-kernel) && \
		echo "check: the prepared tree will do."
endif

.PHONY: debug-kernel
debug-kernel: setup ## build the debug kernel (once, a quarter of an hour)
	@tools/setup debug

.PHONY: shell
shell: setup ## open a shell in the Debian tree
	@$(chroot) bash

##@ Clean up

.PHONY: clean
clean: ## remove what was built from the sources
	rm -rf $(BUILD)

.PHONY: distclean
distclean: clean ## remove the cache as well: the next set-up starts from nothing
	rm -rf --one-file-system $(CACHE)

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile
