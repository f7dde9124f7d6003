"""The shell around the screens: toasts, banners, command palette, dialogs, the first page, one window per home."""
