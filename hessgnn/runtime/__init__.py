"""What every other package stands on: settings, files, processes, optional imports and the machine."""
