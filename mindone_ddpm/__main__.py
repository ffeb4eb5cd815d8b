import sys

from mindone_ddpm.cli import main

sys.exit(main())
