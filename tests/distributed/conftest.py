from tests.yamls.overlay import workshop

__all__ = ['workshop']
